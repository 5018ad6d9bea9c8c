# SPDX-License-Identifier: Apache-2.0
"""The validated, frozen model of a scenario file: the guest, the steps, and the expectations."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.record.asked import IF_TAKEN, INVARIANTS, Asked
from harness.scenario.expectations import (
    Expectations,
    Mistakes,
    raise_mistakes,
    unknown_names,
    wants_audit,
)
from harness.scenario.fields import CommandLine, Name, NotEmpty, Size
from harness.scenario.steps import Part, Situation, Verb, unrolled
from harness.units import GIB, MIB, format_size
from harness.yamlfile import Loc
from harness.yamlwords import near_miss

NEEDS = (
    *("needs-cgroup", "needs-hugetlb", "needs-ksm", "needs-memlock", "needs-swap", "needs-thp"),
)
"""Tags that name what the host must have; without it the run is a SKIP."""

MOST_STEPS = 10_000
"""The most steps of a scenario, with repetitions counted; the project's longest has 300."""

HUGE_PAGE = 2 * MIB
"""Of the backend `hugetlb`, in bytes."""

SMALLEST_GUEST = 64 * MIB
"""Below this the kernel and its initramfs leave no zone above its watermark."""


def _invariant(name: str) -> str:
    if name not in INVARIANTS:
        words = f"invariants are: {', '.join(INVARIANTS)}"
        raise ValueError(f"no invariant is called {name!r}{near_miss(name, INVARIANTS)}; {words}")
    return name


Vcpus = Annotated[StrictInt, Field(ge=1, le=255)]
"""Number of vCPUs; QEMU's x86 machines take at most 255 without an interrupt remapper."""


Invariant = Annotated[str, AfterValidator(_invariant)]
"""The name of one of `INVARIANTS`."""


class NumaNode(Part):
    """One NUMA node of the guest."""

    memory: Size
    """Whole MiB."""
    vcpus: tuple[Annotated[StrictInt, Field(ge=0)], ...] = ()
    """Indices of its vCPUs, from 0."""


class Guest(Part):
    """The guest's machine."""

    memory: Size = GIB
    """Whole MiB, at least 64."""
    vcpus: Vcpus = 2
    """1 to 255."""
    cmdline: CommandLine = ""
    """Appended to the kernel command line."""
    numa: tuple[NumaNode, ...] = ()
    """NUMA nodes; empty means one node with all memory and vCPUs."""
    machine: Literal["pc", "q35", "microvm"] = "pc"
    """Machine type; `microvm` has its devices on virtio-mmio, the others on PCI."""
    hotplug: Size = 0
    """Memory that can be plugged in addition to `memory`."""
    disk: Size = 0
    """Size of an empty disk; 0 means no disk."""
    packages: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")], ...] = ()
    """Debian packages that the guest needs in addition to the image's."""
    modules: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")], ...] = ()
    """Modules of the guest's kernel to load before the first step, of those that the image has
    (`on_demand`). A SKIP if the kernel lacks one."""

    @property
    def summary(self) -> str:
        """The guest on one line: `1GiB, 2 vCPUs`."""
        nodes = f", {len(self.numa)} nodes" if self.numa else ""
        return f"{format_size(self.memory)}, {self.vcpus} vCPU{'s'[: self.vcpus > 1]}{nodes}"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        mistakes: Mistakes = []
        if self.memory % MIB or self.memory < SMALLEST_GUEST:
            wanted = f"must be whole MiB and at least {format_size(SMALLEST_GUEST)}"
            mistakes.append((("memory",), wanted))
        for index, node in enumerate(self.numa):
            if node.memory % MIB or not node.memory:
                mistakes.append((("numa", index, "memory"), "must be whole MiB and at least one"))
        total = sum(node.memory for node in self.numa)
        if self.numa and total != self.memory:
            wanted = (
                f"its nodes have {format_size(total)} in all, but the guest has "
                f"{format_size(self.memory)}"
            )
            mistakes.append((("numa",), wanted))
        placed = sorted(number for node in self.numa for number in node.vcpus)
        if self.numa and placed != list(range(self.vcpus)):
            wanted = f"its nodes must have each vCPU from 0 to {self.vcpus - 1} once, not {placed}"
            mistakes.append((("numa",), wanted))
        if self.machine == "microvm" and (self.numa or self.hotplug or self.disk):
            wanted = "microvm cannot be used with `numa`, `hotplug` or `disk`"
            mistakes.append((("machine",), wanted))
        return raise_mistakes(self, mistakes)


class Balloon(Part):
    """The virtio-balloon device and its features, named as in QEMU."""

    free_page_reporting: StrictBool = True
    """Whether the device offers free page reporting."""
    free_page_hint: StrictBool = False
    """Whether the device offers free page hinting, which migration uses."""
    deflate_on_oom: StrictBool = False
    """Whether the guest may deflate the balloon when it runs out of memory."""
    statistics: StrictBool = False
    """Whether QEMU polls the guest's statistics once a second."""


class Host(Part):
    """How the host backs the guest's memory."""

    backend: Literal[
        "anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private", "hugetlb"
    ] = "anonymous"
    """The memory backend; `hugetlb` takes 2 MiB pages from the host's pool."""
    discard: Literal["dontneed", "free", "slow"] = "dontneed"
    """How QEMU discards guest memory; `free` turns its MADV_DONTNEED into MADV_FREE. With `slow`
    each discard takes 150 ms while a `race` step runs, so that blocks used too early are lost."""
    memory_limit: Size = 0
    """Limit of the memory control group that QEMU runs in; 0 means no limit."""
    mem_lock: StrictBool = False
    """Whether QEMU locks all its memory: the kernel refuses to discard what is locked."""
    prealloc: StrictBool = False
    """Whether QEMU touches all of the guest's memory before the guest boots."""
    thp: Literal["host", "never"] = "host"
    """Whether QEMU gets transparent huge pages: as the host is set up, or `never`. If the guest
    gives back less than a huge page, the host's khugepaged may fill it up again."""
    qemu_args: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = ()
    """Further words of QEMU's command line, which can reach files and programs of the host: they
    need `--allow-qemu-args` from whoever runs the scenario."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        mistakes: Mistakes = []
        if self.discard == "free" and self.backend != "anonymous":
            words = f"`free` (MADV_FREE) needs the `anonymous` backend, not `{self.backend}`"
            mistakes.append((("discard",), words))
        return raise_mistakes(self, mistakes)


class Scenario(Part):
    """A scenario: what is done to a guest, and what is expected of it."""

    name: Name
    """The name of the file without `.yaml`, in kebab-case."""
    title: Annotated[str, Field(min_length=1)]
    """What is true if the scenario passes, on one line."""
    about: str = ""
    """What the scenario checks and why, after the report or thread it comes from."""
    reference: str = ""
    """URL or message-id of that report or thread."""
    tags: tuple[Name, ...] = ()
    """Tags that select it, and those that say what it needs of the host (`needs-...`)."""
    guest: Guest = Guest()
    """The machine that the guest runs on."""
    balloon: Balloon = Balloon()
    """The guest's balloon device."""
    host: Host = Host()
    """How the host backs and discards the guest's memory."""
    clocks: Annotated[tuple[Literal["real", "virtual"], ...], NotEmpty] = ("real", "virtual")
    """The clocks of the guest that it is valid under (`--clock`). Steps such as `race` are valid
    under `real` only, whatever stands here."""
    steps: Annotated[tuple[Verb, ...], NotEmpty]
    """The steps, in order."""
    expect: Expectations = Field(default_factory=dict)
    """Conditions by measure, such as `reclaimed_fraction: ">= 0.95"`; without any, the run only
    measures."""
    without: tuple[Invariant, ...] = ()
    """Invariants that this scenario does not check."""
    answer: tuple[str, ...] = ()
    """Measures that answer the scenario's question, shown beside the verdict."""
    red: dict[str, Any] = Field(default_factory=dict)
    """The negative control: values of fields, by their paths, with which it must not pass."""
    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    def remember(self, data: dict[str, Any]) -> None:
        """Keep the plain data it was made from, with its variant's changes and overrides."""
        self._plain = data

    @property
    def plain(self) -> dict[str, Any]:
        """The plain data it was made from."""
        return self._plain

    @property
    def as_yaml(self) -> str:
        """The scenario as a file of its own, without variants."""
        return yaml.safe_dump(self._plain, sort_keys=False, allow_unicode=True, width=100)

    @property
    def single_steps(self) -> Iterator[tuple[Loc, Verb]]:
        """Each step as often as it is carried out, with its place."""
        return unrolled(self.steps)

    @property
    def presses(self) -> bool:
        """Whether a step puts QEMU under memory pressure."""
        return any(step.needs_memory_group for _loc, step in unrolled(self.steps))

    @property
    def leaves_its_connection(self) -> bool:
        """Whether a step breaks the SSH connection, which processes in the guest must survive."""
        return any(step.breaks_connection for _loc, step in unrolled(self.steps))

    @property
    def times_the_guest(self) -> bool:
        """Whether a step measures how fast the guest is."""
        return any(step.times_the_guest for _loc, step in unrolled(self.steps))

    @property
    def expected_seconds(self) -> float:
        """Estimated duration from its steps, used to order scenarios."""
        memory = self.guest.memory
        return sum(step.expected_seconds(memory) for _loc, step in unrolled(self.steps))

    @property
    def host_memory(self) -> int:
        """The most bytes of guest memory that it may fill on the host at any time."""
        own = self.guest.memory + self.guest.hotplug
        steps = (step.host_memory(self.guest.memory) for _loc, step in unrolled(self.steps))
        return max(own, *steps)

    def not_under(self, clock: Literal["real", "virtual"]) -> str:
        """Say why it is not valid under this clock of the guest; empty if it is."""
        if clock == "virtual":
            for _loc, step in unrolled(self.steps):
                if step.real_clock:
                    return f"`{step.verb}` is not valid under a virtual clock: {step.real_clock}"
        if clock not in self.clocks:
            return f"{self.name} is not valid under a {clock} clock (clocks: {self.clocks[0]})"
        return ""

    @property
    def measured(self) -> frozenset[str]:
        """Names of what its steps measure besides the harness's own measures."""
        return frozenset(name for _loc, step in unrolled(self.steps) for name in step.measured)

    @property
    def invariants(self) -> dict[str, str]:
        """Conditions by measure: the invariants that its steps can check, less `without`."""
        told = {"console_findings"}
        for _loc, step in unrolled(self.steps):
            if step.verifies:
                told.add("integrity_mismatched_pages")
            if step.moves_memory:
                told -= {"reported_resident_bytes", *IF_TAKEN}
            if step.audit_name:
                told |= {"held_absent_bytes", "reported_resident_bytes", *IF_TAKEN}
        return {
            name: condition
            for name, condition in INVARIANTS.items()
            if name in told and name not in self.without
        }

    @property
    def asked(self) -> Asked:
        """What its runs are judged by."""
        return Asked(
            expect=self.expect,
            invariants=self.invariants,
            reporting_wanted=self.balloon.free_page_reporting,
            measured=self.measured,
            answer=self.answer,
        )

    @field_validator("name", mode="after")
    @classmethod
    def _is_the_stem(cls, name: str, info: ValidationInfo) -> str:
        path = (info.context or {}).get("path")
        if path is not None and path.stem != name:
            raise ValueError(f"{name!r} must be the file's name without .yaml: {path.stem!r}")
        return name

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        beyond = next(itertools.islice(unrolled(self.steps), MOST_STEPS, None), None)
        if beyond is not None:
            text = f"makes more than {MOST_STEPS} steps, all repetitions counted"
            return raise_mistakes(self, [(beyond[0][:2], text)])
        mistakes = [*self._unknown_needs(), *self._parts_of_huge_pages(), *self._step_mistakes()]
        if not any(step.audit_name for _loc, step in unrolled(self.steps)):
            mistakes += [
                (("expect", measure), "needs a page audit, and no step is an `audit`")
                for measure, condition in self.expect.items()
                if wants_audit(measure, condition)
            ]
        return raise_mistakes(self, list(dict.fromkeys(mistakes)))

    def _unknown_needs(self) -> Iterator[tuple[Loc, str]]:
        for index, tag in enumerate(self.tags):
            if tag.startswith("needs-") and tag not in NEEDS:
                yield ("tags", index), f"no need is called {tag!r}{near_miss(tag, NEEDS)}"

    def _parts_of_huge_pages(self) -> Iterator[tuple[Loc, str]]:
        """Yield memory that pages of 2 MiB cannot make up, for which QEMU does not start."""
        if self.host.backend != "hugetlb":
            return
        wanted = "must be whole 2 MiB with `host.backend: hugetlb`, not "
        if self.guest.memory % HUGE_PAGE:
            yield ("guest", "memory"), wanted + format_size(self.guest.memory)
        for index, node in enumerate(self.guest.numa):
            if node.memory % HUGE_PAGE:
                yield ("guest", "numa", index, "memory"), wanted + format_size(node.memory)

    def _step_mistakes(self) -> Iterator[tuple[Loc, str]]:
        """Yield steps that make no sense at their place, and measures that no step takes."""
        situation = Situation(self.guest.memory, self.guest.hotplug, self.measured)
        for loc, step in unrolled(self.steps):
            for below, why in step.mistakes(situation):
                yield (*loc, step.verb, *below), why
            situation = step.after(situation)
        for measure, why in unknown_names(self.expect, situation.measured, situation.audits):
            yield ("expect", measure), why
        for index, measure in enumerate(self.answer):
            asked = {measure: ">= 0"}
            for _measure, why in unknown_names(asked, situation.measured, situation.audits):
                yield ("answer", index), why
