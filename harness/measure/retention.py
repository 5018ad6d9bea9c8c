# SPDX-License-Identifier: Apache-2.0
"""What a guest keeps: free where nothing is reported, or used, by who uses it."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.kernel.zones import HUGE_PAGE, Zone, above_watermark, passed_over, zone_name
from harness.record.events import Audited, ChurnFreed
from harness.record.facts import GuestCounters
from harness.units import PAGE_SIZE

RETENTION_MEASURES: dict[str, str] = {
    "page_cache_bytes": "bytes of files in the guest's page cache, more than at the last audit "
    "before the latest free (as the following; without one, all of them)",
    "shmem_bytes": "bytes of tmpfs files and shared memory in the guest",
    "slab_bytes": "bytes of slab in the guest's kernel",
    "huge_pool_bytes": "bytes unused in the guest's pool of huge pages",
    "deferred_split_bytes": "bytes freed inside huge pages whose split the guest defers, about",
}

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
"""/proc/meminfo fields that together hold nearly all of MemTotal, none of it twice."""


@dataclass(frozen=True)
class Kept:
    """By how much has grown what a guest has free and cannot report. Bytes."""

    under: int
    """In zones under their watermark."""
    small: int
    """In blocks below the order, in the other zones."""
    listed: int
    """On the per-CPU lists."""

    @property
    def total(self) -> int:
        return self.under + self.small + self.listed


def kept_since(freed: ChurnFreed, audit: Audited, reporting_order: int) -> Kept:
    """From the moment before a free to an audit: only then is known what of it the lists took.

    An audit before the memory was taken says less. The fill takes what lies on the per-CPU lists,
    whole huge pages among it, and the free puts as much there again.
    """
    before = {zone_name(zone): zone for zone in freed.zones_before}
    under = small = 0
    for zone in audit.counters.zones:
        grown = passed_over(zone, reporting_order)
        if zone_name(zone) in before:
            grown -= passed_over(before[zone_name(zone)], reporting_order)
        # A zone that has come over its watermark shrinks, and gives nothing that others keep.
        if above_watermark(zone, reporting_order):
            small += max(0, grown)
        else:
            under += max(0, grown)
    listed = percpu_free(audit.counters.zones) - percpu_free(freed.zones_before)
    return Kept(under * PAGE_SIZE, small * PAGE_SIZE, max(0, listed))


def percpu_free(zones: Sequence[Zone]) -> int:
    """Bytes on the per-CPU lists of these zones."""
    return sum(zone.per_cpu for zone in zones) * PAGE_SIZE


def retention_measures(audit: Audited, earlier: Audited | None) -> dict[str, float]:
    """Growth since the earlier audit, 0 where it shrank; the whole without one."""
    now = audit.counters
    base = earlier.counters if earlier is not None else None
    return {
        "page_cache_bytes": max(0, page_cache(now) - (page_cache(base) if base else 0)),
        "shmem_bytes": max(0, grown(now, base, "Shmem")),
        "slab_bytes": max(0, grown(now, base, "Slab")),
        "huge_pool_bytes": huge_pool(now),
        "deferred_split_bytes": deferred_split(now, base),
    }


def grown(now: GuestCounters, base: GuestCounters | None, field: str) -> int:
    """A field of /proc/meminfo, less what it was."""
    return now.meminfo.get(field, 0) - (base.meminfo.get(field, 0) if base else 0)


def page_cache(counters: GuestCounters) -> int:
    """Pages of files; shared memory is in Cached but belongs to processes."""
    field = counters.meminfo.get
    return field("Cached", 0) + field("Buffers", 0) - field("Shmem", 0)


def huge_pool(counters: GuestCounters) -> int:
    """Unused bytes of the pool of the default huge page size."""
    return counters.meminfo.get("HugePages_Free", 0) * counters.meminfo.get("Hugepagesize", 0)


def deferred_split(now: GuestCounters, base: GuestCounters | None) -> int:
    """Memory used but in no account, as far as newly deferred splits can explain it.

    A huge page that is partly unmapped waits on the deferred split queue (mm/huge_memory.c,
    deferred_split_folio(), counted in vmstat's thp_deferred_split_page); its unmapped part is in
    neither AnonPages nor MemFree.
    """
    queued = now.vmstat.get("thp_deferred_split_page", 0)
    hidden = _unaccounted(now)
    if base is not None:
        queued -= base.vmstat.get("thp_deferred_split_page", 0)
        hidden -= _unaccounted(base)
    return max(0, min(queued * HUGE_PAGE, hidden))


def _unaccounted(counters: GuestCounters) -> int:
    return counters.meminfo.get("MemTotal", 0) - sum(
        counters.meminfo.get(field, 0) for field in _ACCOUNTED
    )
