# SPDX-License-Identifier: Apache-2.0
"""Find out why a guest keeps memory, the reasons behind `guest-retained`, with their bytes."""

from dataclasses import dataclass

from harness.kernel.blocks import FEW
from harness.kernel.zones import above_watermark, block_size, zone_name
from harness.measure.allocator import withheld
from harness.measure.retention import Kept, base_counters, kept_since, percpu_free, retained
from harness.measure.usable import usable_audit, usable_before
from harness.record.events import Audited
from harness.record.history import History
from harness.units import PAGE_SIZE, format_size


@dataclass(frozen=True)
class Retained:
    """One reason, and the bytes that it can explain."""

    size: int
    sentence: str


def retained_reasons(history: History) -> list[Retained]:
    """List the reasons why the guest keeps memory at the current audit, most bytes first.

    Free memory is counted as growth since the latest free, used memory as growth since the last
    audit before that; without these, all of it counts.
    """
    audit = usable_audit(history)
    if audit is None:
        return []
    reasons = [*_free(history, audit), *_used(history, audit), _offline(audit)]
    # What was never put back is a defect, however little it explains of the rest.
    return [
        *_withheld(history),
        *sorted((r for r in reasons if r.size > 0), key=lambda r: -r.size),
    ]


def _withheld(history: History) -> list[Retained]:
    """Blocks that went to be reported and did not come back."""
    size = withheld(history) or 0
    words = (
        f"{format_size(size)} were taken to be reported and never put back: the guest's kernel "
        "counts them neither as free nor as anybody's, and has not touched them since"
    )
    return [Retained(size, words)] if size else []


def _offline(audit: Audited) -> Retained:
    """Memory that the host holds and the guest does not count as its own any more."""
    cells = audit.report.total
    known = cells.used_resident + cells.free_small_resident + cells.free_large_resident
    known += cells.free_new_resident + cells.reported_resident + (cells.offline_resident or 0)
    size = min(audit.put_offline, audit.mapping.held - known - cells.unstable - cells.unknown)
    return Retained(
        size,
        f"{format_size(max(0, size))} are in memory blocks that the guest has put offline, from "
        "which it reports nothing",
    )


def _free(history: History, audit: Audited) -> list[Retained]:
    """List free memory that the guest cannot report."""
    order = history.order
    if history.rounds:
        free, since = kept_since(history.rounds[-1].freed, audit, order), " of what was freed"
    else:
        under, small = _free_by_watermark(audit, order)
        listed, new = percpu_free(audit.counters.zones), audit.report.total.free_new_resident
        free, since = Kept(under, small, listed, new), ""
    return [
        Retained(
            free.small,
            f"{format_size(free.small)}{since} are free in the guest but in blocks below "
            f"{format_size(block_size(order))}, the reporting order {order}: "
            f"fragmentation{_pinned(audit, free.small)}",
        ),
        Retained(
            free.under,
            f"{format_size(free.under)}{since} are free in zones below their watermark, from which "
            "the guest does not report",
        ),
        Retained(
            free.listed,
            f"{format_size(free.listed)}{since} are free on the guest's per-CPU lists, which "
            "return blocks to the buddy allocator only when full (zoneinfo: pagesets, count)",
        ),
        Retained(
            free.new,
            f"{format_size(free.new)} were freed less than two reporting passes before the audit",
        ),
    ]


def _used(history: History, audit: Audited) -> list[Retained]:
    """List memory that the guest uses, by its user."""
    before = usable_before(history.rounds[-1]) if history.rounds else None
    more = " more than before" if before is not None else ""
    kept = retained(audit.counters, base_counters(history))
    sentences = {
        "page_cache_bytes": "the guest's page cache holds {}" + more,
        "shmem_bytes": "files on tmpfs and shared memory in the guest hold {}" + more,
        "slab_bytes": "the guest's kernel holds {} of slab" + more,
        "compressed_bytes": "the guest holds {} of compressed swap (zram, zswap)" + more,
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
    """Describe the nearly free blocks, if they are most of the fragmented memory."""
    report, listed = audit.report, percpu_free(audit.counters.zones) // PAGE_SIZE
    if report.nearly_free < small / 2 or report.nearly_free_lack > listed:
        return ""
    return (
        f" ({format_size(report.nearly_free)} of it in blocks that lack at most {FEW} pages each, "
        f"{report.nearly_free_lack} in all; the per-CPU lists hold {listed} free pages)"
    )


def _free_by_watermark(audit: Audited, reporting_order: int) -> tuple[int, int]:
    """Split the resident bytes that the rule lets the guest keep.

    Returns those in zones below their watermark, and the rest.
    """
    under = sum(
        audit.report.per_zone[name].free_small_resident
        for zone in audit.counters.zones
        if (name := zone_name(zone)) in audit.report.per_zone
        and not above_watermark(zone, reporting_order)
    )
    return under, audit.report.total.free_small_resident - under


def _others_anonymous(audit: Audited, held_by_churn: int) -> int:
    """Return the bytes of anonymous memory at an audit that the churn tool does not hold."""
    return max(0, audit.counters.meminfo.get("AnonPages", 0) - held_by_churn)
