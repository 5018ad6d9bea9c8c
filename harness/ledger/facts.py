# SPDX-License-Identifier: Apache-2.0
"""The facts the judgement rests on: frozen records, sizes in bytes, times in monotonic seconds.

Instruments produce them, `harness.ledger` judges them, and nothing here does I/O. `None` (or an
absent key) means *not measured*, never zero.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
import numpy.typing as npt

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
    merged: int | None = None
    """Pages of the whole process that KSM has merged with others, in bytes; None before 5.19."""

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

    def since(self, earlier: "DiscardTotals") -> "DiscardTotals":
        """What came after an earlier reading of the same trace."""
        return DiscardTotals(
            self.calls - earlier.calls,
            self.bytes - earlier.bytes,
            self.failed_calls - earlier.failed_calls,
            self.failed_bytes - earlier.failed_bytes,
        )


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
    tail_reported: int | None = None
    """Bytes reported in the last block of the order of each zone, where the zone ends within it."""
    nearly_free: int = 0
    """Bytes free in blocks of the order that lack few pages (harness.ledger.blocks.FEW)."""
    nearly_free_lack: int = 0
    """Pages that all these blocks together lack."""
    tail_discarded: int | None = None
    """Bytes there that a discard in QEMU's trace ever covered; None without a trace."""
