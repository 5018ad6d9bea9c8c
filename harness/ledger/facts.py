# SPDX-License-Identifier: Apache-2.0
"""The facts the judgement rests on: frozen records, sizes in bytes, times in monotonic seconds.

Instruments produce them, `harness.ledger` judges them, and nothing here does I/O. `None` (or an
absent key) means *not measured*, never zero.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Discriminator

StateArray = npt.NDArray[np.uint8]
"""One state per guest page frame number: index = PFN, value = GuestState or HostState."""


class GuestState(IntEnum):
    """What the guest says of one page (also the wire values of the guest tool)."""

    USED = 0
    FREE = 1
    REPORTED = 2
    """On the wire: the *head* of a reported free block. After expansion: every page of it."""
    NO_PAGE = 3
    HELD = 4
    """Used, and mapped by the churn tool's process at the moment of reading."""


class HostState(IntEnum):
    """What the host holds of one guest page."""

    ABSENT = 0
    RESIDENT = 1
    SWAPPED = 2
    ZERO = 3
    """Mapped to the shared zero page: costs nothing, counts as absent."""
    UNKNOWN = 4
    """No RAM block of QEMU backs this PFN, or it could not be read."""


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    ERROR = "ERROR"
    MISS = "MISS"
    SKIP = "SKIP"
    DONE = "DONE"


class Cause(StrEnum):
    """Why a run failed: exactly one per FAIL."""

    FEATURE_OFF = "feature-off"
    NOT_REPORTED = "not-reported"
    ACKED_NOT_DISCARDED = "acked-not-discarded"
    STILL_CHARGED = "still-charged"
    LAZILY_FREE = "lazily-free"
    DATA_LOSS = "data-loss"
    GUEST_RETAINED = "guest-retained"
    NOT_SETTLED = "not-settled"
    GUEST_CRASH = "guest-crash"
    GUEST_HANG = "guest-hang"
    KERNEL_WARNING = "kernel-warning"
    OVERHEAD = "overhead"
    CONTROL_BROKEN = "control-broken"


@dataclass(frozen=True)
class Zone:
    """One zone of one node, from /proc/zoneinfo and /proc/buddyinfo. Pages, not bytes."""

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    min: int
    low: int
    high: int
    free_blocks: tuple[int, ...]
    """Free blocks per order, index = order (buddyinfo)."""
    per_cpu: int
    """Free pages on the per-CPU lists: in no free list, so never reported and in no `free`."""


@dataclass(frozen=True)
class GuestCounters:
    """One reading of the guest's counters, taken at `at` (host monotonic seconds)."""

    at: float
    meminfo: dict[str, int]
    """Bytes by field; HugePages_* fields are counts."""
    vmstat: dict[str, int]
    zones: tuple[Zone, ...]


@dataclass(frozen=True)
class HostMapping:
    """What the host holds for the guest-RAM mappings only, summed over them. Bytes."""

    at: float
    rss: int
    anonymous: int
    shmem: int
    lazyfree: int
    anon_huge: int
    swap: int
    file_blocks: int | None = None
    """st_blocks * 512 of the file behind fd-backed RAM; None for anonymous RAM."""
    cgroup_current: int | None = None

    @property
    def held(self) -> int:
        """Bytes the host is charged with for guest RAM, wherever they lie.

        For a file or memfd what counts is the file's blocks (a mapping can drop its pages while
        the file keeps them); for anonymous RAM it is resident plus swapped.
        """
        if self.file_blocks is not None:
            return self.file_blocks + self.anonymous + self.swap
        return self.rss + self.swap


@dataclass(frozen=True)
class DiscardTotals:
    """Sums over QEMU's discard trace since launch."""

    calls: int
    bytes: int
    failed_calls: int
    failed_bytes: int


@dataclass(frozen=True)
class HostNoise:
    """Host-wide counters that could move guest memory without reporting (/proc/vmstat, PSI).

    Each is absent (None) where the host lacks it. Page counts since host boot.
    """

    at: float
    pswpin: int | None
    pswpout: int | None
    pgsteal_kswapd: int | None
    thp_collapse: int | None
    psi_memory_some_us: int | None
    mem_available: int


# --- the audit ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellTotals:
    """Bytes in each cell of the oracle's table (see docs/oracle.md), stable pages only."""

    used_resident: int
    used_absent: int
    free_small_resident: int
    """Free, in a block below the order, or in a zone under its watermark: retained, expected."""
    free_small_absent: int
    free_large_resident: int
    """Free, unreported, in a block of at least the order in a zone above its watermark."""
    free_large_absent: int
    reported_resident: int
    reported_absent: int
    held_absent: int
    """Part of used_absent that the churn tool holds and has written: data loss."""
    unstable: int
    """Pages whose guest state changed between the two readings; in no other cell."""
    unknown: int
    """Pages with no readable host state; in no other cell."""


@dataclass(frozen=True)
class AuditReport:
    """A page audit, reduced: totals for the guest, and per zone, node and order."""

    at: float
    total: CellTotals
    per_zone: dict[str, CellTotals]
    """Key `node0/DMA32`."""
    per_node: dict[str, CellTotals]
    reported_by_order: dict[int, int]
    """Bytes in reported blocks of each order."""
    free_by_order: dict[int, int]
    """Bytes in free, unreported blocks of each order."""
    suspect_bytes: int
    """Used now and absent now, but used and resident in an earlier audit: suspicion, not proof."""
    suspect_pfns: tuple[int, ...]
    """The first few of them (at most 16)."""
    reported_undiscarded: int | None
    """Bytes reported that no discard in QEMU's trace ever covered; None without a trace."""
    guest_seconds: float
    host_seconds: float
    reported_resident_pfns: tuple[int, ...] = ()
    """The first few reported and resident pages (at most 16): where to look."""
    held_absent_pfns: tuple[int, ...] = ()
    """The first few lost pages (at most 16)."""


# --- events: the lines of results.jsonl ---------------------------------------------------------
# Every event carries `t`, seconds since the run's start; `run` is added by the recorder.


@dataclass(frozen=True)
class RunStarted:
    t: float
    scenario: str
    image: str
    attempt: int
    wall: str
    """UTC, ISO 8601."""
    host: dict[str, str]
    kind: Literal["run-started"] = "run-started"


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
class ChurnHeld:
    """The churn tool has written `bytes` and holds them."""

    t: float
    bytes: int
    seconds: float
    kind: Literal["churn-held"] = "churn-held"


@dataclass(frozen=True)
class ChurnFreed:
    """The churn tool freed `bytes` and still holds `still_held`; the host just before that."""

    t: float
    bytes: int
    still_held: int
    before: HostMapping
    discards_before: DiscardTotals | None
    kind: Literal["churn-freed"] = "churn-freed"


@dataclass(frozen=True)
class ChurnVerified:
    t: float
    bytes: int
    mismatched_pages: int
    detail: tuple[str, ...] = ()
    """The tool's own words about the first mismatches."""
    kind: Literal["churn-verified"] = "churn-verified"


class SettleOutcome(StrEnum):
    DRAINED = "drained"
    """Nothing that can be reported remains."""
    IDLE = "idle"
    """Something remains, but nothing moved for more than two reporting passes."""
    MOVING = "moving"
    """The deadline passed while memory was still coming back."""


@dataclass(frozen=True)
class Settled:
    t: float
    outcome: SettleOutcome
    seconds: float
    """From the start of the wait to the last movement."""
    remaining: int | None
    """Bytes that could still be reported, as last looked at."""
    held: int
    """HostMapping.held at the end."""
    t50: float | None
    """Seconds until half of what came back had come back; None if nothing did."""
    t90: float | None
    kind: Literal["settled"] = "settled"


@dataclass(frozen=True)
class Audited:
    t: float
    name: str
    report: AuditReport
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals | None
    checks: tuple[str, ...] = ()
    """Expectations of this very audit, `measure: condition` as the scenario writes them."""
    kind: Literal["audited"] = "audited"


@dataclass(frozen=True)
class Pressed:
    """The host was made to take memory from QEMU."""

    t: float
    by: str
    seconds: float
    before: HostMapping
    after: HostMapping
    kind: Literal["pressed"] = "pressed"


@dataclass(frozen=True)
class DriverChanged:
    """The balloon driver was unbound or bound again."""

    t: float
    bound: bool
    kind: Literal["driver-changed"] = "driver-changed"


@dataclass(frozen=True)
class ConsoleFinding:
    """The console watcher saw trouble."""

    t: float
    severity: Literal["crash", "hang", "warning"]
    title: str
    text: str
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
    kind: Literal["judged"] = "judged"


Event = Annotated[
    RunStarted
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
    | ConsoleFinding
    | NoiseRead
    | StepsDone
    | Broke
    | Judged,
    Discriminator("kind"),
]
"""Any line of results.jsonl; parse with `pydantic.TypeAdapter(Event)`."""

LastWords = Broke | ConsoleFinding | Judged
"""What is still tried after the disk has filled: without them a run has no verdict."""
