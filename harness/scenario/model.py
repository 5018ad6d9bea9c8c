# SPDX-License-Identifier: Apache-2.0
"""A scenario file as a frozen, validated model: what to do, on what guest, and what to expect."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, ValidationInfo, field_validator, model_validator

from harness.scenario.expectations import Expectations, Mistakes, raise_mistakes, wants_audit
from harness.scenario.fields import CommandLine, Name, NotEmpty, Size
from harness.scenario.steps import (
    AuditStep,
    BindStep,
    ChurnStep,
    Part,
    PressureStep,
    ReleaseStep,
    RepeatStep,
    RunStep,
    SettleStep,
    SingleStep,
    Step,
    UnbindStep,
    VerifyStep,
    unrolled,
)
from harness.units import GIB, MIB, format_size

__all__ = [
    "SCENARIOS_DIR",
    "AuditStep",
    "Balloon",
    "BindStep",
    "ChurnStep",
    "Guest",
    "Host",
    "NumaNode",
    "PressureStep",
    "ReleaseStep",
    "RepeatStep",
    "RunStep",
    "Scenario",
    "SettleStep",
    "SingleStep",
    "Step",
    "UnbindStep",
    "VerifyStep",
]

SCENARIOS_DIR = Path(__file__).parents[2] / "scenarios"
"""The project's own scenarios."""

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
        return raise_mistakes(self, mistakes)


class Balloon(Part):
    """The virtio-balloon device."""

    free_page_reporting: StrictBool = True


class Host(Part):
    """How the host backs the guest's memory."""

    backend: Literal[
        "anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private"
    ] = "anonymous"
    discard: Literal["dontneed", "free"] = "dontneed"
    """`free`: QEMU's MADV_DONTNEED of guest memory becomes MADV_FREE."""

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

    @property
    def wait_count(self) -> int:
        """How often it waits for the guest to settle: what a run's time depends on."""
        return sum(isinstance(step, SettleStep) for _loc, step in unrolled(self.steps))

    @property
    def presses(self) -> bool:
        """Whether a step makes the host take memory."""
        return any(isinstance(step, PressureStep) for _loc, step in unrolled(self.steps))

    @field_validator("name", mode="after")
    @classmethod
    def _is_the_stem(cls, name: str, info: ValidationInfo) -> str:
        path = (info.context or {}).get("path")
        if path is not None and path.stem != name:
            raise ValueError(f"{name!r} must be the file's name without .yaml: {path.stem!r}")
        return name

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        mistakes = [*self._oversized_churns(), *self._steps_out_of_order()]
        if not any(isinstance(step, AuditStep) for _loc, step in unrolled(self.steps)):
            mistakes += [
                (("expect", measure), "needs a page audit, and no step is an `audit`")
                for measure, condition in self.expect.items()
                if wants_audit(measure, condition)
            ]
        return raise_mistakes(self, list(dict.fromkeys(mistakes)))

    def _oversized_churns(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for loc, step in unrolled(self.steps):
            if isinstance(step, ChurnStep) and step.size.of(self.guest.memory) >= self.guest.memory:
                words = f"{step.size} is not less than the guest's {format_size(self.guest.memory)}"
                yield (*loc, "churn", "size"), words

    def _steps_out_of_order(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        held, bound = False, True
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
