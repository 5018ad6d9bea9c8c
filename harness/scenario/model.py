# SPDX-License-Identifier: Apache-2.0
"""A scenario file as a frozen, validated model: what to do, on what guest, and what to expect."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.scenario.expectations import (
    Expectations,
    Mistakes,
    check_names,
    raise_mistakes,
    wants_audit,
)
from harness.scenario.fields import CommandLine, Name, NotEmpty, Size
from harness.scenario.steps import (
    AuditStep,
    AwaitStep,
    BindStep,
    BusyStep,
    CalmStep,
    ChurnStep,
    CrowdStep,
    FaultRateStep,
    MigrateStep,
    Part,
    PlugStep,
    PressureStep,
    ReleaseStep,
    RunStep,
    SettleStep,
    SnapshotStep,
    Step,
    SuspendStep,
    UnbindStep,
    UnplugStep,
    VerifyStep,
    WatchStep,
    measured_by,
    unrolled,
)
from harness.units import GIB, MIB, format_size
from harness.yamlwords import near_miss

NEEDS = ("needs-cgroup", "needs-hugetlb", "needs-ksm", "needs-swap", "needs-thp")
"""Tags that name what a host must have: without it the run is a SKIP."""

SMALLEST_GUEST = 64 * MIB
"""Below this the kernel and its initramfs leave no zone above its watermark."""

Vcpus = Annotated[StrictInt, Field(ge=1, le=255)]
"""255: the most that QEMU's x86 machines take without an interrupt remapper."""


class NumaNode(Part):
    """One NUMA node of the guest."""

    memory: Size
    vcpus: tuple[Annotated[StrictInt, Field(ge=0)], ...] = ()
    """The numbers of its vCPUs."""


class Guest(Part):
    """The machine. Memory in bytes."""

    memory: Size = GIB
    vcpus: Vcpus = 2
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
    free_page_hint: StrictBool = False
    deflate_on_oom: StrictBool = False
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
    """A scenario file. A file's `name` must equal its stem."""

    name: Name
    title: Annotated[str, Field(min_length=1)]
    about: str = ""
    """What it checks, in the words of the report or thread it comes from."""
    reference: str = ""
    """URL or message-id."""
    tags: tuple[Name, ...] = ()
    guest: Guest = Guest()
    balloon: Balloon = Balloon()
    host: Host = Host()
    steps: Annotated[tuple[Step, ...], NotEmpty]
    expect: Expectations = Field(default_factory=dict)
    """Condition by measure, as in `reclaimed_fraction: ">= 0.95"`; empty: a measurement only."""
    answer: tuple[str, ...] = ()
    """The measures that answer its question, shown beside the verdict."""
    red: dict[str, Any] = Field(default_factory=dict)
    """The negative control: fields, by their paths, with which the scenario must not pass."""
    _plain: dict[str, Any] = PrivateAttr(default_factory=dict)

    def remember(self, data: dict[str, Any]) -> None:
        """Keep the plain data it was made from, its variant's changes and overrides among them."""
        self._plain = data

    @property
    def as_yaml(self) -> str:
        """A file that says the same, without variants."""
        return yaml.safe_dump(self._plain, sort_keys=False, allow_unicode=True, width=100)

    @property
    def presses(self) -> bool:
        """Whether a step makes the host take memory."""
        return any(isinstance(step, PressureStep) for _loc, step in unrolled(self.steps))

    @property
    def leaves_its_connection(self) -> bool:
        """Whether a step breaks the connection to the guest, which processes there must survive."""
        return any(
            isinstance(step, MigrateStep | SnapshotStep) for _loc, step in unrolled(self.steps)
        )

    @property
    def expected_seconds(self) -> float:
        """About how long it takes, by its steps; only the order among scenarios matters."""
        return sum(_expected_seconds(step, self.guest.memory) for _, step in unrolled(self.steps))

    @property
    def host_memory(self) -> int:
        """Bytes of guest memory it may fill on the host at a time."""
        most = self.guest.memory + self.guest.hotplug
        for _loc, step in unrolled(self.steps):
            if isinstance(step, CrowdStep):
                most = max(most, self.guest.memory + step.limit + self.guest.memory)
            elif isinstance(step, MigrateStep):
                most = max(most, 2 * self.guest.memory)
        return most

    @property
    def measured(self) -> frozenset[str]:
        """Names of what its steps measure beside the harness's own measures."""
        return frozenset(name for _, step in unrolled(self.steps) for name in measured_by(step))

    @field_validator("name", mode="after")
    @classmethod
    def _is_the_stem(cls, name: str, info: ValidationInfo) -> str:
        path = (info.context or {}).get("path")
        if path is not None and path.stem != name:
            raise ValueError(f"{name!r} must be the file's name without .yaml: {path.stem!r}")
        return name

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        mistakes = [
            *self._unknown_needs(),
            *self._oversized_churns(),
            *self._steps_out_of_order(),
            *self._unknown_names(),
        ]
        if not any(isinstance(step, AuditStep) for _loc, step in unrolled(self.steps)):
            mistakes += [
                (("expect", measure), "needs a page audit, and no step is an `audit`")
                for measure, condition in self.expect.items()
                if wants_audit(measure, condition)
            ]
        return raise_mistakes(self, list(dict.fromkeys(mistakes)))

    def _unknown_needs(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for index, tag in enumerate(self.tags):
            if tag.startswith("needs-") and tag not in NEEDS:
                yield ("tags", index), f"no need is called {tag!r}{near_miss(tag, NEEDS)}"

    def _unknown_names(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Measures that no step takes, in the scenario's expectations and those of its audits."""
        audits: set[str] = set()
        for loc, step in unrolled(self.steps):
            field, conditions = "expect", {}
            if isinstance(step, AuditStep):
                conditions = step.expect
            elif isinstance(step, AwaitStep):
                field, conditions = "until", step.until
            for measure, condition in conditions.items():
                for why in check_names(measure, condition, self.measured, audits):
                    yield (*loc, step.verb, field, measure), why
            if isinstance(step, AuditStep):
                audits.add(step.name)
        for measure, condition in self.expect.items():
            for why in check_names(measure, condition, self.measured, audits):
                yield ("expect", measure), why
        for index, measure in enumerate(self.answer):
            for why in check_names(measure, ">= 0", self.measured, audits):
                yield ("answer", index), why

    def _oversized_churns(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for loc, step in unrolled(self.steps):
            most = self.guest.memory + self.guest.hotplug
            if isinstance(step, ChurnStep) and step.size.of(self.guest.memory) >= most:
                words = f"{step.size} is not less than the guest's {format_size(most)}"
                yield (*loc, "churn", "size"), words

    def _steps_out_of_order(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        held, bound, busy = False, True, False
        plugged = {"balloon"}
        for loc, step in unrolled(self.steps):
            if isinstance(step, ChurnStep):
                held = step.free != "all"
            elif isinstance(step, VerifyStep | ReleaseStep):
                if not held:
                    words = "nothing is held here; put `churn: {free: half-of-blocks}` before it"
                    yield (*loc, step.verb), words
                held = held and isinstance(step, VerifyStep)
            elif isinstance(step, BindStep | UnbindStep):
                if bound == isinstance(step, BindStep):
                    yield (*loc, step.verb), f"the driver is already {'' if bound else 'un'}bound"
                bound = isinstance(step, BindStep)
            elif isinstance(step, BusyStep | CalmStep):
                if isinstance(step, CalmStep) and not busy:
                    yield (*loc, step.verb), "nothing is busy here; put `busy` before it"
                busy = isinstance(step, BusyStep)
            elif isinstance(step, PlugStep | UnplugStep):
                if (step.device in plugged) == isinstance(step, PlugStep):
                    there = "already" if step.device in plugged else "not"
                    yield (*loc, step.verb, "device"), f"{step.device} is {there} plugged here"
                plugged ^= {step.device}
                if step.device != "balloon" and not self.guest.hotplug:
                    yield (*loc, step.verb), "needs room for it: guest.hotplug"


def _expected_seconds(step: Step, memory: int) -> float:
    """Seconds a step takes under TCG, by rule of thumb."""
    match step:
        case SettleStep():
            return min(6.0, step.deadline)
        case ChurnStep():
            return 2.0 + step.hold + step.size.of(memory) / (128 * MIB)
        case WatchStep() | FaultRateStep():
            return step.duration
        case SuspendStep() | PlugStep() | UnplugStep():
            return 4.0
        case MigrateStep() | SnapshotStep():
            return 20.0
        case CrowdStep():
            return 12.0 * step.most
        case RunStep():
            return step.lasts
    return 1.0
