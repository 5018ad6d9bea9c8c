# SPDX-License-Identifier: Apache-2.0
"""The events of a run: frozen records, each a line of JSON in results.jsonl.

Each has `t`, seconds since the run's start; the recorder adds `run`. Sizes are in bytes; `None` (or
an absent key) means *not measured*, never zero. The events of single steps are defined in
`step_events` and exported here too.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Discriminator

from harness.kernel.zones import PASS_SECONDS, REPORTING_CAPACITY
from harness.record.facts import Cause, HostNoise, Verdict
from harness.record.run_plan import RunPlan
from harness.record.step_events import (
    Audited,
    Ballooned,
    BusyEnded,
    BusyStarted,
    ChurnAsked,
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
    Pictured,
    Pressed,
    Raced,
    Settled,
    Suspended,
    Witnessed,
)

__all__ = [
    "Audited",
    "Ballooned",
    "Broke",
    "BusyEnded",
    "BusyStarted",
    "ChurnAsked",
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
    "Pictured",
    "Pressed",
    "Raced",
    "RunStarted",
    "Sample",
    "SamplingEnded",
    "Settled",
    "StackDecoded",
    "StepsDone",
    "Suspended",
    "Witnessed",
]


SCHEMA = 3
"""Version of the files in a results directory. Schema 1, whose lines name no schema, lacks the plan
of each run, and its audit files hold only the page states. Schema 2 lacks the checksums of these
files, and may leave fields empty that schema 3 always fills."""

READABLE = (1, 2, SCHEMA)

COMPLETE_SCHEMA = 3
"""The first schema in which a field that its writer always fills must not be empty."""


@dataclass(frozen=True)
class RunStarted:
    """The first event of every attempt at a run."""

    t: float
    scenario: str
    image: str
    attempt: int
    wall: str
    """The time at which `t` was 0: UTC, ISO 8601."""
    host: dict[str, str]
    qemu: str = ""
    """The QEMU asked for: the name of a build, `host`, or a name derived from a program's path."""
    qemu_version: str = ""
    """QEMU's version; empty if no usable QEMU was found."""
    schema: int = SCHEMA
    harness: str = ""
    """Version of fpr-harness that wrote the event."""
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
    """The crash, titled like a console finding."""
    text: str
    defect: str = ""
    """A known bug of QEMU that may be the cause; empty: none is known."""
    own: bool = True
    """False: the crash of an earlier attempt at this run, repeated here."""
    kind: Literal["attempt-crashed"] = "attempt-crashed"


@dataclass(frozen=True)
class AttemptBroke:
    """The infrastructure broke an earlier attempt at this run, which says nothing of the guest."""

    t: float
    attempt: int
    reason: str
    """That of its verdict, a MISS."""
    kind: Literal["attempt-broke"] = "attempt-broke"


@dataclass(frozen=True)
class PhaseStarted:
    """A phase of the run began: `boot`, or a step such as `settle` with its detail."""

    t: float
    phase: str
    detail: str = ""
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True)
class GuestReady:
    """The guest answered over SSH; the properties of the guest."""

    t: float
    kernel: str
    accel: str
    qemu: str
    boot_seconds: float
    page_reporting_order: int
    memory: int
    """Configured guest RAM, bytes."""
    offered: bool
    """Whether the device offers VIRTIO_BALLOON_F_REPORTING (bit 5)."""
    negotiated: bool
    """Whether the driver has accepted it."""
    features: str = ""
    """The device's `features` bit string as in sysfs, bit 0 first."""
    discard: Literal["dontneed", "free", "slow"] = "dontneed"
    """How QEMU discards memory: MADV_DONTNEED, MADV_FREE, or slowly."""
    pass_seconds: float = PASS_SECONDS
    """Seconds between two reporting passes."""
    capacity: int = REPORTING_CAPACITY
    """Blocks that the guest reports in one call."""
    capacity_from: Literal["kernel", "queue", "assumed"] = "assumed"
    """Where that is known from: the constant of the kernel's version, the size of the reporting
    queue, or nowhere."""
    memory_limit: int = 0
    """Limit of QEMU's cgroup in bytes; 0: no limit."""
    untraced: str = ""
    """Why QEMU's discards are not traced; empty if they are."""
    build: str = ""
    """The guest kernel's build, from `uname -v`."""
    unconfined: str = ""
    """What QEMU's seccomp filter cannot deny, and why it runs as root; empty: neither, or the
    record is of an older version."""
    host_page: int | None = None
    """Size of the pages behind guest RAM: bytes; None in records of older versions."""
    clock: Literal["real", "virtual"] = "real"
    """Whether the guest's clock was the host's, or counted its instructions (`--clock`)."""
    kind: Literal["guest-ready"] = "guest-ready"


@dataclass(frozen=True)
class Sample:
    """One reading of the sampler; the values of an instrument that failed are None."""

    t: float
    held: int | None
    rss: int | None
    lazyfree: int | None
    discarded: int | None
    guest_free: int | None
    kind: Literal["sample"] = "sample"
    huge: int | None = None
    """The part of `rss` in anonymous huge pages; from exact readings only, like `lazyfree`."""
    cpu_main: float | None = None
    """CPU time of QEMU's main thread since it began: seconds."""
    cpu_vcpus: float | None = None
    """That of its vCPU threads together."""
    cpu_others: float | None = None
    """That of all its other threads together, ended ones included."""


@dataclass(frozen=True)
class SamplingEnded:
    """The sampler has stopped; what it missed."""

    t: float
    lost: int
    """Number of samples left out because they were late."""
    failures: tuple[str, ...]
    """The first error of each instrument that failed."""
    blind: tuple[str, ...] = ()
    """Those of the instruments on the host, which audits read too."""
    kind: Literal["sampling-ended"] = "sampling-ended"


@dataclass(frozen=True)
class ConsoleFinding:
    """The console shows an error of the guest's kernel, or the guest did not respond."""

    t: float
    severity: Literal["crash", "hang", "warning"]
    title: str
    text: str
    on_console: bool = True
    """False: the guest's behaviour shows it, not the console."""
    kind: Literal["console-finding"] = "console-finding"


@dataclass(frozen=True)
class StackDecoded:
    """The text of a console finding, or of a crashed boot, with the lines of the sources."""

    t: float
    title: str
    """Of the finding."""
    text: str
    kind: Literal["stack-decoded"] = "stack-decoded"


@dataclass(frozen=True)
class NoiseRead:
    """The host-wide counters were read."""

    t: float
    noise: HostNoise
    kind: Literal["noise"] = "noise"


@dataclass(frozen=True)
class StepsDone:
    """Every step of the scenario ran to its end."""

    t: float
    events: int | None = None
    """Number of the run's events before this one; None in records of older versions."""
    kind: Literal["steps-done"] = "steps-done"


@dataclass(frozen=True)
class Broke:
    """The run ended before its last step."""

    t: float
    error: str
    """Class name in the `HarnessError` tree."""
    verdict: Verdict
    """The verdict that follows from the error alone: ERROR, MISS or SKIP."""
    message: str
    hint: str
    kind: Literal["broke"] = "broke"


@dataclass(frozen=True)
class Judged:
    """The run's verdict: the last event of every run."""

    t: float
    verdict: Verdict
    cause: Cause | None
    reason: str
    measures: dict[str, float] = field(default_factory=dict)
    answer: dict[str, float] = field(default_factory=dict)
    """The measures that the scenario shows; `AUDIT.measure` is a measure at that audit."""
    failed: tuple[str, ...] = ()
    """A sentence for each expectation that does not hold."""
    kind: Literal["judged"] = "judged"


Event = Annotated[
    RunStarted
    | AttemptCrashed
    | AttemptBroke
    | PhaseStarted
    | GuestReady
    | Sample
    | SamplingEnded
    | ChurnAsked
    | ChurnHeld
    | ChurnFreed
    | ChurnVerified
    | Settled
    | Audited
    | Pictured
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
    | Witnessed
    | ConsoleFinding
    | StackDecoded
    | NoiseRead
    | StepsDone
    | Broke
    | Judged,
    Discriminator("kind"),
]
"""Any line of results.jsonl; parse with `pydantic.TypeAdapter(Event)`."""

LastWords = AttemptCrashed | Broke | ConsoleFinding | Judged
"""Events that are written even after the disk has filled: without them a run has no verdict."""
