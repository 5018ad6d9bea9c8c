# SPDX-License-Identifier: Apache-2.0
"""Memory that a guest keeps: free but not reportable, or used, by its user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.kernel.zones import HUGE_PAGE, Zone, above_watermark, passed_over, zone_name
from harness.measure.terms import Means, Measure, Rule, TakenBy, Unit, not_as_written
from harness.measure.usable import usable_audit, usable_before
from harness.record.events import Audited, ChurnFreed
from harness.record.facts import GuestCounters
from harness.record.history import History
from harness.units import PAGE_SIZE

_ACCOUNTED = (
    "MemFree",
    "Buffers",
    "Cached",
    "SwapCached",
    "AnonPages",
    "Slab",
    "KernelStack",
    "PageTables",
    "Percpu",
    "Hugetlb",
)
"""/proc/meminfo fields that cover nearly all of MemTotal without overlap."""


@dataclass(frozen=True)
class Kept:
    """Growth in bytes of a guest's free memory that it cannot report."""

    under: int
    """In zones below their watermark."""
    small: int
    """In blocks below the reporting order, in the other zones."""
    listed: int
    """On the per-CPU lists."""
    new: int = 0
    """Free for less than two reporting passes, and held by the host."""

    @property
    def total(self) -> int:
        return self.under + self.small + self.listed + self.new


def kept_since(freed: ChurnFreed, audit: Audited, reporting_order: int) -> Kept:
    """Compute the growth from the moment before a free to an audit.

    An audit before the fill would not do as a base: the fill empties the per-CPU lists, which may
    hold huge pages, and the free fills them again.
    """
    before = {zone_name(zone): zone for zone in freed.zones_before}
    under = small = 0
    for zone in audit.counters.zones:
        grown = passed_over(zone, reporting_order)
        if zone_name(zone) in before:
            grown -= passed_over(before[zone_name(zone)], reporting_order)
        # A zone that rose above its watermark shrinks, which must not offset other zones' growth.
        if above_watermark(zone, reporting_order):
            small += max(0, grown)
        else:
            under += max(0, grown)
    listed = percpu_free(audit.counters.zones) - percpu_free(freed.zones_before)
    new = audit.report.total.free_new_resident
    return Kept(under * PAGE_SIZE, small * PAGE_SIZE, max(0, listed), new)


def percpu_free(zones: Sequence[Zone]) -> int:
    """Return the bytes on the per-CPU lists of these zones."""
    return sum(zone.per_cpu for zone in zones) * PAGE_SIZE


def retained(now: GuestCounters, base: GuestCounters | None) -> dict[str, int]:
    """Return what each user of memory holds more than at `base` (0 if less); all without a base."""
    return {name: keeps(now, base) for name, (keeps, _meaning, _words) in _KEEPERS.items()}


def base_counters(history: History) -> GuestCounters | None:
    """The guest's counters at the last audit before the latest free, if it can be believed."""
    before = usable_before(history.rounds[-1]) if history.rounds else None
    return None if before is None else before.audits[-1].counters


Keeps = Callable[[GuestCounters, GuestCounters | None], int]
"""Computes the bytes kept, beyond those at an earlier moment if there is one."""


def _grown(of: Callable[[GuestCounters], int]) -> Keeps:
    return lambda now, base: max(0, of(now) - (of(base) if base is not None else 0))


def _field(name: str) -> Callable[[GuestCounters], int]:
    """Read a field of /proc/meminfo; 0 if the kernel does not have it."""
    return lambda counters: counters.meminfo.get(name, 0)


def _page_cache(counters: GuestCounters) -> int:
    """Return the bytes of file pages, without shared memory, which Cached includes."""
    field = counters.meminfo.get
    return field("Cached", 0) + field("Buffers", 0) - field("Shmem", 0)


def compressed(counters: GuestCounters) -> int:
    """Return the bytes in pools of compressed pages (zram, zswap).

    vmstat counts those of zsmalloc, which zram uses. On older kernels a pool of zswap may be of
    zbud or z3fold; /proc/meminfo counts it whatever it is made of, from 5.19.
    """
    zsmalloc = counters.vmstat.get("nr_zspages", 0) * PAGE_SIZE
    return max(zsmalloc, counters.meminfo.get("Zswap", 0))


def huge_pool(now: GuestCounters, _base: GuestCounters | None = None) -> int:
    """Return the unused bytes in the pool of the default huge page size."""
    return now.meminfo.get("HugePages_Free", 0) * now.meminfo.get("Hugepagesize", 0)


def _deferred_split(now: GuestCounters, base: GuestCounters | None) -> int:
    """Estimate memory hidden by deferred splits: used, in no account, and explained by the queue.

    A huge page that is partly unmapped waits on the deferred split queue (mm/huge_memory.c,
    deferred_split_folio(), counted in vmstat's thp_deferred_split_page); its unmapped part is in
    neither AnonPages nor MemFree.
    """
    queued = now.vmstat.get("thp_deferred_split_page", 0)
    hidden = unaccounted(now) - compressed(now)
    if base is not None:
        queued -= base.vmstat.get("thp_deferred_split_page", 0)
        hidden -= unaccounted(base) - compressed(base)
    return max(0, min(queued * HUGE_PAGE, hidden))


def unaccounted(counters: GuestCounters) -> int:
    """Bytes of MemTotal that are in no account of /proc/meminfo."""
    return counters.meminfo.get("MemTotal", 0) - sum(
        counters.meminfo.get(field, 0) for field in _ACCOUNTED
    )


_SINCE = ", beyond what it held at the last audit before the latest free (all of it without one)"

_KEEPERS: dict[str, tuple[Keeps, str, str]] = {
    "page_cache_bytes": (
        _grown(_page_cache),
        f"bytes of files in the guest's page cache{_SINCE}",
        "page cache",
    ),
    "shmem_bytes": (
        _grown(_field("Shmem")),
        f"bytes of tmpfs files and shared memory in the guest{_SINCE}",
        "shared memory",
    ),
    "slab_bytes": (
        _grown(_field("Slab")),
        f"bytes of slab in the guest's kernel{_SINCE}",
        "slab",
    ),
    "compressed_bytes": (
        _grown(compressed),
        f"bytes of compressed pages that the guest has swapped out to zram or zswap{_SINCE}",
        "compressed swap",
    ),
    "huge_pool_bytes": (
        huge_pool,
        "bytes of unused pages in the guest's hugetlb pool",
        "unused huge pages in its pool",
    ),
    "deferred_split_bytes": (
        _deferred_split,
        "bytes freed inside huge pages whose split the guest defers, estimated from memory that "
        f"/proc/meminfo does not account for{_SINCE}",
        "huge pages whose split is deferred",
    ),
}
"""By measure: how it is computed, its meaning, and what keeps the memory in a few words."""


def _measure(name: str, keeps: Keeps, meaning: str, words: str) -> Measure:
    def compute(history: History) -> int | None:
        audit = usable_audit(history)
        return None if audit is None else keeps(audit.counters, base_counters(history))

    return Measure(
        name=name,
        unit=Unit.BYTES,
        meaning=meaning,
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written(f"the guest keeps less ({words}) than the scenario sets up"),
        means_when_high=Means(Rule.KEPT, f"the guest keeps memory that it should free ({words})"),
        compute=compute,
    )


MEASURES = tuple(_measure(name, *keeper) for name, keeper in _KEEPERS.items())
