# SPDX-License-Identifier: Apache-2.0
"""Measures of the guest's page allocator: blocks that reporting never put back, sums that disagree,
zones too small to report."""

from collections.abc import Sequence

from harness.kernel.zones import HUGE_PAGE, Zone, ever_reportable, zone_name
from harness.measure.retention import compressed, huge_pool, percpu_free, unaccounted
from harness.measure.terms import Means, Measure, Rule, TakenBy, Unit
from harness.measure.usable import is_usable, usable_audit
from harness.record.events import Audited
from harness.record.facts import GuestCounters
from harness.record.history import History
from harness.units import PAGE_SIZE

STRUCT_PAGE = 64
"""Bytes of the kernel's `struct page` on x86_64 (include/linux/mm_types.h, 5.10 to 7.3)."""

_NEVER = Means(Rule.CONTROL, "the guest's allocator keeps its books where they should be wrong")


def withheld(history: History) -> int | None:
    """Bytes that the guest took to report and never put back, in whole huge pages.

    An audit sees blocks that were given back to the host and that the guest uses untouched. Those
    on the per-CPU lists and in the pool of huge pages look the same. So it counts what exceeds
    these, or what the guest's memory accounts have lost since the first audit, whichever is more.
    """
    audit = usable_audit(history)
    if audit is None or audit.report.withheld is None:
        return None
    seen, now = audit.report.withheld, audit.counters
    beyond = seen - percpu_free(now.zones) - huge_pool(now)
    first = next((each for each in history.audits if is_usable(each)), audit)
    lost = min(seen, _missing(audit) - _missing(first) - _new_memory_map(first, audit))
    return max(0, beyond, lost) // HUGE_PAGE * HUGE_PAGE


def _missing(audit: Audited) -> int:
    """Bytes that are in no account of /proc/meminfo, nor on the per-CPU lists, nor compressed.

    VmallocUsed counts the pages of vmalloc() (vmalloc_nr_pages(), mm/vmalloc.c, from 5.3), those of
    kernel stacks once more.
    """
    now = audit.counters
    known = percpu_free(now.zones) + compressed(now) + now.meminfo.get("VmallocUsed", 0)
    return unaccounted(now) - known


def _new_memory_map(first: Audited, last: Audited) -> int:
    """Bytes of `struct page` taken from free memory between two audits, for plugged memory.

    Memory that the guest takes offline keeps them (offline_pages(), mm/memory_hotplug.c).
    """
    return max(0, _memory_map(last.counters) - _memory_map(first.counters))


def _memory_map(now: GuestCounters) -> int:
    """Bytes of `struct page`.

    vmstat counts them from 6.11 (mm/vmstat.c, nr_memmap_pages), without those set up at boot, which
    MemTotal does not include either. Before that they follow from the zones' present pages, those
    of boot included: only the growth says something.
    """
    pages = now.vmstat.get("nr_memmap_pages")
    if pages is not None:
        return pages * PAGE_SIZE
    return sum(zone.present for zone in now.zones) * STRUCT_PAGE


def free_drift(zones: Sequence[Zone]) -> int:
    """Bytes by which a zone's count of free pages is off the sum of its free lists, at worst."""
    return PAGE_SIZE * max(
        (
            abs(zone.free - sum(count << order for order, count in enumerate(zone.free_blocks)))
            for zone in zones
            if zone.free_blocks
        ),
        default=0,
    )


def _drift(history: History) -> int | None:
    audit = usable_audit(history)
    return None if audit is None else free_drift(audit.counters.zones)


def _unreportable(history: History) -> int | None:
    audit = usable_audit(history)
    if audit is None:
        return None
    orders = (history.order, *(each.read for each in history.orders))
    cells = (
        audit.report.per_zone[zone_name(zone)]
        for zone in audit.counters.zones
        if not any(ever_reportable(zone, order) for order in orders)
    )
    return sum(each.reported_resident + each.reported_absent for each in cells)


MEASURES = (
    Measure(
        name="withheld_bytes",
        unit=Unit.BYTES,
        meaning="bytes in whole blocks that the guest took to report and never put back: given "
        "back to the host, in use, never touched, and neither on the per-CPU lists nor in the pool "
        "of huge pages",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=_NEVER,
        means_when_high=Means(Rule.RETAINED),
        compute=withheld,
    ),
    Measure(
        name="free_drift_bytes",
        unit=Unit.BYTES,
        meaning="bytes by which a zone's count of free pages (zoneinfo, which MemFree sums up) "
        "is off the sum of its free lists (buddyinfo), in the zone where it is most; the kernel's "
        "counters lag by up to 125 pages for each CPU (mm/vmstat.c, calculate_normal_threshold())",
        taken_by=TakenBy.AUDIT,
        means_when_low=_NEVER,
        means_when_high=Means(
            Rule.MISCOUNTED,
            "the guest's kernel miscounts its free memory: MemFree is not what the free lists hold",
        ),
        compute=_drift,
    ),
    Measure(
        name="unreportable_zone_bytes",
        unit=Unit.BYTES,
        meaning="bytes reported in zones that are too small ever to be above their watermark",
        taken_by=TakenBy.AUDIT,
        means_when_low=_NEVER,
        means_when_high=Means(
            Rule.CONTROL,
            "the guest reported memory of a zone too small ever to be above its watermark",
        ),
        compute=_unreportable,
    ),
)
