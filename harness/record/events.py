# SPDX-License-Identifier: Apache-2.0
"""The events of a run: frozen records whose JSON is the lines of results.jsonl.

Each carries `t`, seconds since the run's start; `run` is added by the recorder. Sizes in bytes;
`None` (or an absent key) means *not measured*, never zero. The events of single steps are in
`step_events`; all can be had from here.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Discriminator

from harness.kernel.zones import PASS_SECONDS
from harness.record.facts import Cause, HostNoise, Verdict
from harness.record.run_plan import RunPlan
from harness.record.step_events import (
    Audited,
    Ballooned,
    BusyEnded,
    BusyStarted,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    CrowdFull,
    CrowdGrew,
    DevicePlugged,
    DriverChanged,
    FaultRate,
    GuestMoved,
    Measured,
    OrderRead,
    Pressed,
    Raced,
    Settled,
    Suspended,
)

__all__ = [
    "Audited",
    "Ballooned",
    "Broke",
    "BusyEnded",
    "BusyStarted",
    "ChurnFreed",
    "ChurnHeld",
    "ChurnVerified",
    "ConsoleFinding",
    "CrowdFull",
    "CrowdGrew",
    "DevicePlugged",
    "DriverChanged",
    "Event",
    "FaultRate",
    "GuestMoved",
    "GuestReady",
    "Judged",
    "LastWords",
    "Measured",
    "NoiseRead",
    "OrderRead",
    "PhaseStarted",
    "Pressed",
    "Raced",
    "RunStarted",
    "Sample",
    "SamplingEnded",
    "Settled",
    "StepsDone",
    "Suspended",
]


SCHEMA = 3
"""Of the files in a results directory. 1 (whose lines name none) lacks the plan of each run, and in
the files of its audits all but the pages. 2 lacks the checksums of these files, and some fields may
be empty in it that 3 always fills."""

READABLE = (1, 2, SCHEMA)

COMPLETE_SCHEMA = 3
"""From this one on a field that its writer always fills must not be empty."""


@dataclass(frozen=True)
class RunStarted:
    """The first event of every attempt at a run."""

    t: float
    scenario: str
    image: str
    attempt: int
    wall: str
    """When `t` was 0: UTC, ISO 8601."""
    host: dict[str, str]
    qemu: str = ""
    """Which QEMU, as it was asked for: the name of a build, `host`, or after a program's path."""
    qemu_version: str = ""
    """Empty: none that could be used."""
    schema: int = SCHEMA
    harness: str = ""
    """The version that wrote it."""
    plan: RunPlan | None = None
    """None in schema 1."""
    kind: Literal["run-started"] = "run-started"


@dataclass(frozen=True)
class AttemptCrashed:
    """The guest's kernel crashed before the scenario's first step."""

    t: float
    attempt: int
    accel: str
    title: str
    """The crash, as a console finding calls it."""
    text: str
    defect: str = ""
    """What QEMU is known to do wrong that may have brought it about; empty: nothing is known."""
    own: bool = True
    """False: an earlier attempt at the same run, told again."""
    kind: Literal["attempt-crashed"] = "attempt-crashed"


@dataclass(frozen=True)
class PhaseStarted:
    """A phase a person can follow: `boot`, or a step such as `settle` with its detail."""

    t: float
    phase: str
    detail: str = ""
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True)
class GuestReady:
    """The guest answers over SSH; what it is."""

    t: float
    kernel: str
    accel: str
    qemu: str
    boot_seconds: float
    page_reporting_order: int
    memory: int
    """Configured guest RAM, bytes."""
    offered: bool
    """VIRTIO_BALLOON_F_REPORTING (bit 5) offered by the device."""
    negotiated: bool
    """... and accepted by the driver."""
    features: str = ""
    """The device's `features` bit string as sysfs prints it."""
    discard: Literal["dontneed", "free"] = "dontneed"
    """How QEMU gives memory back."""
    pass_seconds: float = PASS_SECONDS
    """Between two reporting passes."""
    memory_limit: int = 0
    """Bytes that QEMU may be charged with; 0: no limit."""
    untraced: str = ""
    """Why nothing tells of QEMU's discards; empty: its trace does."""
    build: str = ""
    """`uname -v` of the guest."""
    kind: Literal["guest-ready"] = "guest-ready"


@dataclass(frozen=True)
class Sample:
    """One tick of the sampler; an instrument that could not read is None."""

    t: float
    held: int | None
    rss: int | None
    lazyfree: int | None
    discarded: int | None
    guest_free: int | None
    kind: Literal["sample"] = "sample"


@dataclass(frozen=True)
class SamplingEnded:
    """The sampler has stopped: what it could not do."""

    t: float
    lost: int
    """Samples left out because their time had passed."""
    failures: tuple[str, ...]
    """The first error of every instrument that failed."""
    kind: Literal["sampling-ended"] = "sampling-ended"


@dataclass(frozen=True)
class ConsoleFinding:
    """The console watcher saw trouble, or a guest did not answer to what was asked of it."""

    t: float
    severity: Literal["crash", "hang", "warning"]
    title: str
    text: str
    on_console: bool = True
    """False: it shows by what the guest does, not by what its console says."""
    kind: Literal["console-finding"] = "console-finding"


@dataclass(frozen=True)
class NoiseRead:
    t: float
    noise: HostNoise
    kind: Literal["noise"] = "noise"


@dataclass(frozen=True)
class StepsDone:
    """Every step of the scenario ran to its end."""

    t: float
    events: int | None = None
    """Of the run that stand before this one; None: whoever wrote it did not count."""
    kind: Literal["steps-done"] = "steps-done"


@dataclass(frozen=True)
class Broke:
    """The run ended before its last step."""

    t: float
    error: str
    """Class name in the `HarnessError` tree."""
    verdict: Verdict
    """What the error alone makes of the run: ERROR, MISS or SKIP."""
    message: str
    hint: str
    kind: Literal["broke"] = "broke"


@dataclass(frozen=True)
class Judged:
    """The run's verdict, last event of every run."""

    t: float
    verdict: Verdict
    cause: Cause | None
    reason: str
    measures: dict[str, float] = field(default_factory=dict)
    answer: dict[str, float] = field(default_factory=dict)
    """What the scenario shows of them; `AUDIT.measure` is what it was at that audit."""
    failed: tuple[str, ...] = ()
    """Every expectation that does not hold, a sentence each."""
    kind: Literal["judged"] = "judged"


Event = Annotated[
    RunStarted
    | AttemptCrashed
    | PhaseStarted
    | GuestReady
    | Sample
    | SamplingEnded
    | ChurnHeld
    | ChurnFreed
    | ChurnVerified
    | Settled
    | Audited
    | Pressed
    | DriverChanged
    | Measured
    | OrderRead
    | BusyStarted
    | BusyEnded
    | Raced
    | Suspended
    | DevicePlugged
    | Ballooned
    | FaultRate
    | GuestMoved
    | CrowdGrew
    | CrowdFull
    | ConsoleFinding
    | NoiseRead
    | StepsDone
    | Broke
    | Judged,
    Discriminator("kind"),
]
"""Any line of results.jsonl; parse with `pydantic.TypeAdapter(Event)`."""

LastWords = AttemptCrashed | Broke | ConsoleFinding | Judged
"""What is still tried after the disk has filled: without them a run has no verdict."""
