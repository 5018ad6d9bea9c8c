# SPDX-License-Identifier: Apache-2.0
"""Why a guest keeps memory: the reason behind `guest-retained`, with its bytes."""

from dataclasses import dataclass

from harness.kernel.blocks import FEW
from harness.kernel.zones import above_watermark, block_size, zone_name
from harness.measure.retention import Kept, base_counters, kept_since, percpu_free, retained
from harness.measure.usable import usable_audit, usable_before
from harness.record.events import Audited
from harness.record.history import History
from harness.units import PAGE_SIZE, format_size


@dataclass(frozen=True)
class Retained:
    """One reason, and the bytes it can explain."""

    size: int
    sentence: str


def retained_reasons(history: History) -> list[Retained]:
    """Why the guest keeps memory as the current audit sees it, the most bytes first.

    What is free has grown since the latest free, what is used since the last audit before it;
    without these it is counted from nothing.
    """
    audit = usable_audit(history)
    if audit is None:
        return []
    reasons = [*_free(history, audit), *_used(history, audit)]
    return sorted((r for r in reasons if r.size > 0), key=lambda r: -r.size)


def _free(history: History, audit: Audited) -> list[Retained]:
    """What is free in the guest and cannot be reported."""
    order = history.order
    if history.rounds:
        free, since = kept_since(history.rounds[-1].freed, audit, order), " of what was freed"
    else:
        under, small = _free_by_watermark(audit, order)
        free, since = Kept(under, small, percpu_free(audit.counters.zones)), ""
    return [
        Retained(
            free.small,
            f"{format_size(free.small)}{since} are free in the guest but in blocks below "
            f"{format_size(block_size(order))}, the reporting order {order}: "
            f"fragmentation{_pinned(audit, free.small)}",
        ),
        Retained(
            free.under,
            f"{format_size(free.under)}{since} are free in zones so small or so full that they are "
            "below their watermark, where the guest does not report",
        ),
        Retained(
            free.listed,
            f"{format_size(free.listed)}{since} are free on the guest's per-CPU lists, which give "
            "no block to the allocator until they are full (zoneinfo: pagesets, count)",
        ),
    ]


def _used(history: History, audit: Audited) -> list[Retained]:
    """What the guest itself uses, by who uses it."""
    before = usable_before(history.rounds[-1]) if history.rounds else None
    more = " more than before" if before is not None else ""
    kept = retained(audit.counters, base_counters(history))
    sentences = {
        "page_cache_bytes": "the guest's page cache holds {}" + more,
        "shmem_bytes": "files on tmpfs and shared memory in the guest hold {}" + more,
        "slab_bytes": "the guest's kernel holds {} of slab" + more,
        "huge_pool_bytes": "{} lie unused in the guest's pool of huge pages",
        "deferred_split_bytes": "about {} are the freed parts of transparent huge pages whose "
        "split the guest defers until it needs memory",
    }
    anonymous = _others_anonymous(audit, history.held_by_churn)
    if before is not None:
        anonymous -= _others_anonymous(before.audits[-1], before.held_by_churn)
    return [
        *(
            Retained(kept[name], sentence.format(format_size(kept[name])))
            for name, sentence in sentences.items()
        ),
        Retained(
            anonymous,
            f"processes in the guest other than the churn tool hold {format_size(anonymous)} of "
            f"anonymous memory{more}",
        ),
    ]


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
    """Resident bytes the rule lets the guest keep: in zones below their watermark; elsewhere."""
    under = sum(
        audit.report.per_zone[name].free_small_resident
        for zone in audit.counters.zones
        if (name := zone_name(zone)) in audit.report.per_zone
        and not above_watermark(zone, reporting_order)
    )
    return under, audit.report.total.free_small_resident - under


def _others_anonymous(audit: Audited, held_by_churn: int) -> int:
    """Anonymous memory at an audit that the churn tool does not hold."""
    return max(0, audit.counters.meminfo.get("AnonPages", 0) - held_by_churn)
