# SPDX-License-Identifier: Apache-2.0
"""Why a guest keeps memory: the reason behind `guest-retained`, with its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.kernel.blocks import FEW
from harness.kernel.zones import above_watermark, block_size, zone_name
from harness.measure.measures import audit_before, rounds_of, usable_audit
from harness.measure.retention import Kept, kept_since, percpu_free, retention_measures
from harness.record.events import Audited, ChurnFreed, ChurnHeld, Event
from harness.units import PAGE_SIZE, format_size


@dataclass(frozen=True)
class Retained:
    """One reason, and the bytes it can explain."""

    size: int
    sentence: str


def retained_reasons(events: Sequence[Event], reporting_order: int) -> list[Retained]:
    """Why the guest keeps memory as the current audit sees it, the most bytes first.

    What is free has grown since the latest free, what is used since the last audit before it;
    without these it is counted from nothing.
    """
    audit = usable_audit(events)
    if audit is None:
        return []
    rounds = rounds_of(events)
    earlier = audit_before(events, rounds[-1].freed) if rounds else None
    block = format_size(block_size(reporting_order))
    if rounds:
        free = kept_since(rounds[-1].freed, audit, reporting_order)
    else:
        under, small = _free_by_watermark(audit, reporting_order)
        free = Kept(under, small, percpu_free(audit.counters.zones))
    since = " of what was freed" if rounds else ""
    more = " more than before" if earlier else ""
    kept = {name: round(size) for name, size in retention_measures(audit, earlier).items()}
    cache, shared, slab = (kept[f"{name}_bytes"] for name in ("page_cache", "shmem", "slab"))
    pool, unsplit = kept["huge_pool_bytes"], kept["deferred_split_bytes"]
    anonymous = _others_anonymous(events, audit)
    if earlier:
        anonymous -= _others_anonymous(events, earlier)
    reasons = [
        Retained(
            free.small,
            f"{format_size(free.small)}{since} are free in the guest but in blocks below {block}, "
            f"the reporting order {reporting_order}: fragmentation{_pinned(audit, free.small)}",
        ),
        Retained(
            free.under,
            f"{format_size(free.under)}{since} are free in zones so small or full that they are "
            "under their watermark, where the guest does not report",
        ),
        Retained(
            free.listed,
            f"{format_size(free.listed)}{since} are free on the guest's per-CPU lists, which give "
            "no block to the allocator before they are full (zoneinfo: pagesets, count)",
        ),
        Retained(cache, f"the guest's page cache holds {format_size(cache)}{more}"),
        Retained(
            shared,
            f"files on tmpfs and shared memory in the guest hold {format_size(shared)}{more}",
        ),
        Retained(slab, f"the guest's kernel holds {format_size(slab)} of slab{more}"),
        Retained(pool, f"{format_size(pool)} lie unused in the guest's pool of huge pages"),
        Retained(
            unsplit,
            f"about {format_size(unsplit)} are the freed parts of transparent "
            "huge pages whose split the guest defers until it needs memory",
        ),
        Retained(
            anonymous,
            f"processes in the guest other than the churn tool hold {format_size(anonymous)} of "
            f"anonymous memory{more}",
        ),
    ]
    return sorted((r for r in reasons if r.size > 0), key=lambda r: -r.size)


def _pinned(audit: Audited, small: int) -> str:
    """What breaks the blocks, where most of them lack only a page or few."""
    report, listed = audit.report, percpu_free(audit.counters.zones) // PAGE_SIZE
    if report.nearly_free < small / 2 or report.nearly_free_lack > listed:
        return ""
    return (
        f" ({format_size(report.nearly_free)} of it in blocks that lack only {FEW} pages at most, "
        f"{report.nearly_free_lack} in all; {listed} free pages lie on the per-CPU lists)"
    )


def _free_by_watermark(audit: Audited, reporting_order: int) -> tuple[int, int]:
    """Resident bytes the rule lets the guest keep: in zones under their watermark; elsewhere."""
    under = sum(
        audit.report.per_zone[name].free_small_resident
        for zone in audit.counters.zones
        if (name := zone_name(zone)) in audit.report.per_zone
        and not above_watermark(zone, reporting_order)
    )
    return under, audit.report.total.free_small_resident - under


def _others_anonymous(events: Sequence[Event], audit: Audited) -> int:
    """Anonymous memory at an audit that the churn tool does not hold."""
    held = 0
    for event in events:
        if event is audit:
            break
        if isinstance(event, ChurnHeld):
            held = event.bytes
        elif isinstance(event, ChurnFreed):
            held = event.still_held
    return max(0, audit.counters.meminfo.get("AnonPages", 0) - held)
