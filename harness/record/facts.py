# SPDX-License-Identifier: Apache-2.0
"""The facts that a run is judged by: frozen records, sizes in bytes, times in monotonic seconds.

Instruments produce them; measures and the verdict are computed from them. `None` (or an absent key)
means *not measured*, never zero.
"""

from dataclasses import dataclass
from enum import StrEnum

from harness.kernel.zones import Zone


class Verdict(StrEnum):
    """The outcome of a run."""

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
class GuestCounters:
    """One reading of the guest's counters, taken at `at` (host monotonic seconds)."""

    at: float
    meminfo: dict[str, int]
    """Bytes by field; HugePages_* fields are counts."""
    vmstat: dict[str, int]
    zones: tuple[Zone, ...]


@dataclass(frozen=True)
class HostMapping:
    """What the host holds for guest RAM, in bytes, summed over the guest-RAM mappings only."""

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
    """What the memory cgroup of QEMU is charged with; None if it cannot be read."""
    merged: int | None = None
    """Pages of the whole process that KSM has merged with others, in bytes; None before 5.19."""
    outside: int | None = None
    """What QEMU holds outside guest RAM and its translation buffers, resident, swapped, or in files
    in memory that it has open but not mapped; None in records of older versions."""

    @property
    def held(self) -> int:
        """Bytes of guest RAM that the host keeps, resident or swapped; each page counts once.

        For a file or memfd, the file's blocks count, swapped ones included (mm/shmem.c): a mapping
        can drop its pages while the file keeps them. A private mapping has a copy of each page that
        was written, and the file keeps the page that the copy was made from (mm/memory.c,
        do_cow_fault()).
        """
        if self.file_blocks is not None:
            return max(self.file_blocks, self.anonymous + self.swap)
        return self.rss + self.swap

    @property
    def twice(self) -> int:
        """Bytes of `held` that the host may keep twice: in a file, and as a private copy."""
        if self.file_blocks is None or not self.anonymous:
            return 0
        return min(self.file_blocks, self.anonymous + self.swap)


@dataclass(frozen=True)
class DiscardTotals:
    """Sums over QEMU's trace of discards since its launch."""

    calls: int
    bytes: int
    failed_calls: int
    failed_bytes: int
    errno: int = 0
    """Of the latest failure (errno(3)); 0: none failed, or the record does not say."""

    def since(self, earlier: "DiscardTotals") -> "DiscardTotals":
        """Return what was added since an earlier reading of the same trace."""
        return DiscardTotals(
            self.calls - earlier.calls,
            self.bytes - earlier.bytes,
            self.failed_calls - earlier.failed_calls,
            self.failed_bytes - earlier.failed_bytes,
            self.errno,
        )


@dataclass(frozen=True)
class HostNoise:
    """Host-wide counters of what can move guest memory without reporting.

    From /proc/vmstat, /proc/meminfo and PSI. Counts are pages since the host booted, sizes bytes;
    None where the host lacks the counter.
    """

    at: float
    pswpin: int | None
    pswpout: int | None
    pgsteal_kswapd: int | None
    thp_collapse: int | None
    psi_memory_some_us: int | None
    mem_available: int
    lazyfreed: int | None = None
    """Lazily free pages that the host took; None in records of older versions, too."""
