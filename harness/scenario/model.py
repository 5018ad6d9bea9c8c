# SPDX-License-Identifier: Apache-2.0
"""A scenario file as a frozen, validated model: what to do, on what guest, and what to expect."""

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

NEEDS = ("needs-cgroup", "needs-hugetlb", "needs-ksm", "needs-swap", "needs-thp")
"""Tags that name what a host must have: without it the run is a SKIP."""

MOST_STEPS = 10_000
"""All repetitions counted: the longest scenario of the project has 300, and a day has 43,000 passes
of page reporting."""

SMALLEST_GUEST = 64 * MIB
"""Below this the kernel and its initramfs leave no zone above its watermark."""


def _invariant(name: str) -> str:
    if name not in INVARIANTS:
        words = f"invariants are: {', '.join(INVARIANTS)}"
        raise ValueError(f"no invariant is called {name!r}{near_miss(name, INVARIANTS)}; {words}")
    return name


Vcpus = Annotated[StrictInt, Field(ge=1, le=255)]
"""255: the most that QEMU's x86 machines take without an interrupt remapper."""


Invariant = Annotated[str, AfterValidator(_invariant)]
"""The name of one of `INVARIANTS`."""


class NumaNode(Part):
    """One NUMA node of the guest."""

    memory: Size
    """Whole MiB."""
    vcpus: tuple[Annotated[StrictInt, Field(ge=0)], ...] = ()
    """The numbers of its vCPUs."""


class Guest(Part):
    """The machine. Memory in bytes."""

    memory: Size = GIB
    """Whole MiB, 64 at least."""
    vcpus: Vcpus = 2
    """1 to 255."""
    cmdline: CommandLine = ""
    """Appended to the kernel command line."""
    numa: tuple[NumaNode, ...] = ()
    """Empty: one node with everything."""
    machine: Literal["pc", "q35", "microvm"] = "pc"
    """`microvm` has its devices on virtio-mmio, the others on PCI."""
    hotplug: Size = 0
    """Bytes that can be plugged beside `memory`."""
    disk: Size = 0
    """Bytes of an empty disk."""
    packages: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")], ...] = ()
    """Debian packages whose programs the guest needs beside the image's."""

    @property
    def summary(self) -> str:
        """`1GiB, 2 vCPUs`."""
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
            wanted = f"its nodes have {format_size(total)}, the guest {format_size(self.memory)}"
            mistakes.append((("numa",), wanted))
        placed = sorted(number for node in self.numa for number in node.vcpus)
        if self.numa and placed != list(range(self.vcpus)):
            wanted = f"its nodes must have each vCPU from 0 to {self.vcpus - 1} once, not {placed}"
            mistakes.append((("numa",), wanted))
        if self.machine == "microvm" and (self.numa or self.hotplug or self.disk):
            wanted = "microvm here has neither nodes nor memory slots nor a disk"
            mistakes.append((("machine",), wanted))
        return raise_mistakes(self, mistakes)


class Balloon(Part):
    """The virtio-balloon device and its features, by QEMU's names."""

    free_page_reporting: StrictBool = True
    """Whether the device offers it."""
    free_page_hint: StrictBool = False
    """Whether it offers free page hinting, for migration."""
    deflate_on_oom: StrictBool = False
    """Whether the guest may deflate the balloon when it runs out of memory."""
    statistics: StrictBool = False
    """Whether QEMU asks for the guest's statistics, once a second."""


class Host(Part):
    """How the host backs the guest's memory."""

    backend: Literal[
        "anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private", "hugetlb"
    ] = "anonymous"
    """`hugetlb`: huge pages of 2 MiB from the host's pool."""
    discard: Literal["dontneed", "free"] = "dontneed"
    """`free`: QEMU's MADV_DONTNEED of guest memory becomes MADV_FREE."""
    memory_limit: Size = 0
    """Bytes that QEMU may be charged with, by a control group of its own; 0: no limit."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        mistakes: Mistakes = []
        if self.discard == "free" and self.backend != "anonymous":
            words = f"`free` (MADV_FREE) is for anonymous memory, not {self.backend}"
            mistakes.append((("discard",), words))
        return raise_mistakes(self, mistakes)


class Scenario(Part):
    """One question to a guest, and how it is put. Lies in a file called after its `name`."""

    name: Name
    """Kebab-case: the name of the file without `.yaml`."""
    title: Annotated[str, Field(min_length=1)]
    """What holds if it passes, on one line."""
    about: str = ""
    """What it checks, in the words of the report or thread it comes from."""
    reference: str = ""
    """URL or message-id."""
    tags: tuple[Name, ...] = ()
    """By which it is chosen, and what it needs of the host (`needs-...`)."""
    guest: Guest = Guest()
    """The machine."""
    balloon: Balloon = Balloon()
    """Its balloon device."""
    host: Host = Host()
    """How the host backs its memory."""
    steps: Annotated[tuple[Verb, ...], NotEmpty]
    """What is done, in order."""
    expect: Expectations = Field(default_factory=dict)
    """Condition by measure, as in `reclaimed_fraction: ">= 0.95"`; empty: a measurement only."""
    without: tuple[Invariant, ...] = ()
    """Invariants that do not hold here."""
    answer: tuple[str, ...] = ()
    """The measures that answer its question, shown beside the verdict."""
    red: dict[str, Any] = Field(default_factory=dict)
    """The negative control: fields, by their paths, with which the scenario must not pass."""
    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    def remember(self, data: dict[str, Any]) -> None:
        """Keep the plain data it was made from, its variant's changes and overrides among them."""
        self._plain = data

    @property
    def plain(self) -> dict[str, Any]:
        """That data."""
        return self._plain

    @property
    def as_yaml(self) -> str:
        """A file that says the same, without variants."""
        return yaml.safe_dump(self._plain, sort_keys=False, allow_unicode=True, width=100)

    @property
    def single_steps(self) -> Iterator[tuple[Loc, Verb]]:
        """Each as often as it is carried out, with its place."""
        return unrolled(self.steps)

    @property
    def presses(self) -> bool:
        """Whether a step makes the host take memory."""
        return any(step.needs_memory_group for _loc, step in unrolled(self.steps))

    @property
    def leaves_its_connection(self) -> bool:
        """Whether a step breaks the connection to the guest, which processes there must survive."""
        return any(step.breaks_connection for _loc, step in unrolled(self.steps))

    @property
    def expected_seconds(self) -> float:
        """About how long it takes, by its steps; only the order among scenarios matters."""
        memory = self.guest.memory
        return sum(step.expected_seconds(memory) for _loc, step in unrolled(self.steps))

    @property
    def host_memory(self) -> int:
        """Bytes of guest memory it may fill on the host at a time."""
        own = self.guest.memory + self.guest.hotplug
        steps = (step.host_memory(self.guest.memory) for _loc, step in unrolled(self.steps))
        return max(own, *steps)

    @property
    def measured(self) -> frozenset[str]:
        """Names of what its steps measure beside the harness's own measures."""
        return frozenset(name for _loc, step in unrolled(self.steps) for name in step.measured)

    @property
    def invariants(self) -> dict[str, str]:
        """Condition by measure: the invariants that its steps can tell of, and that it keeps."""
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
        """What a run of it is judged by."""
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
        mistakes = [*self._unknown_needs(), *self._step_mistakes()]
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

    def _step_mistakes(self) -> Iterator[tuple[Loc, str]]:
        """Steps that make no sense where they stand, and measures that no step takes."""
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
