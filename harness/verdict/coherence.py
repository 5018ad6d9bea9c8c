# SPDX-License-Identifier: Apache-2.0
"""Check that a record is consistent and complete; otherwise it proves nothing.

Facts that are recorded twice must agree, facts that are always recorded must be there, and no
instrument may have failed. Most pairs of facts were equal to the byte in all runs on five kernels:
they come from the same pages, or the kernel computes one from the other. If two readings are some
time apart, a busy guest may move memory between them; the limits of that are defined here.
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise

from harness.kernel.pages import AuditReport, CellTotals
from harness.kernel.zones import Zone, zone_name
from harness.measure.retention import compressed, percpu_free, unaccounted
from harness.measure.usable import UNJUDGED_LIMIT, UNLISTED_LIMIT
from harness.record.events import COMPLETE_SCHEMA, Audited
from harness.record.facts import DiscardTotals
from harness.record.history import History, Round
from harness.units import PAGE_SIZE, format_size
from harness.verdict.chronology import untimely

MEMORY_LEFT_OUT = 0.02
"""Fraction of a guest's memory that its zones may lack, as firmware reserves some; seen: 0.1 %."""

ACCOUNTS_LAG = 0.01
"""Fraction of a guest's memory by which its accounts may lag; on real guests, at least 1 MiB more
was in no account than on the per-CPU lists."""

_CELLS = tuple(field.name for field in fields(CellTotals) if field.name != "held_absent")


def contradiction(history: History) -> str | None:
    """Describe the first contradiction in a record; None if the record is consistent."""
    return next(_contradictions(history), None)


def what_was_not_checked(history: History) -> str | None:
    """Memory that was held and that nobody compared, as a sentence; None: there is none."""
    for seen in history.verifications:
        if seen.unchecked:
            more = f"not the other {format_size(seen.unchecked)} that it held"
            return f"the {seen.by} tool checked {format_size(seen.bytes)}, but {more}"
    for witness in history.witnessed:
        if witness.unchecked:
            kept = format_size(witness.unchecked)
            return f"the witness did not check {kept} of its own memory"
    return None


def blind_spot(history: History) -> str | None:
    """Say what kept the run's instruments from looking; None if nothing did.

    The sampler uses the instruments on the host that audits use, although no verdict depends on its
    samples. The guest's counters are no such instrument: a guest that was stopped for a while does
    not send them in time.
    """
    for ended in history.sampled:
        if ended.blind:
            return f"an instrument failed while the run was sampled: {ended.blind[0]}"
    lost = sum(ended.lost for ended in history.sampled)
    if history.schema >= COMPLETE_SCHEMA and lost > history.samples:
        return f"{lost} samples came too late to be taken, and {history.samples} were taken"
    return None


def _contradictions(history: History) -> Iterator[str]:
    yield from history.contradictions
    yield from _ledger_of_discards(history)
    for audit in history.audits:
        where = f"at audit {audit.name!r} "
        accounts = (
            *_missing(audit, history.schema),
            *_cells(audit.report),
            *_parts(audit.report),
            *_examples(audit.report),
            *_zones(audit),
            *_listed(audit),
            *_memory(audit, history),
            *_host(audit),
        )
        yield from (where + said for said in accounts)
    for round_ in history.rounds:
        yield from _before_a_free(round_, history)
    for then in history.at_audits:
        yield from _lost_to_the_host(then)
    yield from untimely(history)


def _missing(audit: Audited, schema: int) -> Iterator[str]:
    """Yield facts that a record of this schema always has and this one lacks."""
    if schema < COMPLETE_SCHEMA:
        return
    report, mapping = audit.report, audit.mapping
    always = {
        "listed": report.listed,
        "present": report.present,
        "lost_bytes": report.lost_bytes,
        "tail_reported": report.tail_reported,
        "offline_resident": report.total.offline_resident,
        "offline_absent": report.total.offline_absent,
        "outside": mapping.outside,
    }
    if audit.discards is not None:
        always |= {
            "reported_undiscarded": report.reported_undiscarded,
            "tail_discarded": report.tail_discarded,
        }
    yield from (f"{name} is empty" for name, value in always.items() if value is None)


def _cells(report: AuditReport) -> Iterator[str]:
    """Check that the cells add up to what the guest listed, by zone and by node.

    A few pages may be in no zone.
    """
    listed = _size(report.total)
    if report.listed is not None and report.listed != listed:
        yield f"the cells hold {format_size(listed)}, the guest listed {format_size(report.listed)}"
    for name in (*_CELLS, "held_absent"):
        total, zones, nodes = (
            sum(getattr(cells, name) or 0 for cells in parts)
            for parts in ((report.total,), report.per_zone.values(), report.per_node.values())
        )
        outside = total - zones
        if zones != nodes or not 0 <= outside <= UNLISTED_LIMIT * listed:
            yield (
                f"{name} is {format_size(total)}, {format_size(zones)} in the zones and "
                f"{format_size(nodes)} in the nodes"
            )


def _parts(report: AuditReport) -> Iterator[str]:
    """Check that no part is larger than the whole."""
    cells = report.total
    reported, free = cells.reported, cells.free
    parts = (
        ("held_absent", cells.held_absent, cells.used_absent),
        ("lost_bytes", report.lost_bytes or 0, cells.used_absent),
        ("lost_undiscarded", report.lost_undiscarded, report.lost_bytes or 0),
        ("suspect_bytes", report.suspect_bytes, cells.used_absent),
        ("collapsible", report.collapsible, cells.reported_resident),
        ("offline_collapsible", report.offline_collapsible, cells.offline_resident or 0),
        ("reported_undiscarded", report.reported_undiscarded or 0, reported + cells.unknown),
        ("tail_reported", report.tail_reported or 0, reported + cells.unknown),
        ("nearly_free", report.nearly_free, free + cells.unknown),
    )
    for name, part, whole in parts:
        if part > whole:
            yield f"{name} is {format_size(part)}, more than the {format_size(whole)} it is part of"
    for what, by_order, size in (
        ("reported", report.reported_by_order, reported),
        ("free", report.free_by_order, free),
    ):
        blocks = sum(by_order.values())
        if not size <= blocks <= size + cells.unknown:
            yield (
                f"{format_size(size)} are {what}, but blocks of all orders make "
                f"{format_size(blocks)}"
            )


def _examples(report: AuditReport) -> Iterator[str]:
    """Check that every kind of trouble has example pages, and nothing else has."""
    for name, size, examples in (
        ("reported_resident", report.total.reported_resident, report.reported_resident_pfns),
        ("held_absent", report.total.held_absent, report.held_absent_pfns),
        ("suspect_bytes", report.suspect_bytes, report.suspect_pfns),
        ("lost_bytes", report.lost_bytes or 0, report.lost_pfns),
    ):
        if bool(size) != bool(examples):
            yield f"{name} is {format_size(size)}, with {len(examples)} pages named"


def _zones(audit: Audited) -> Iterator[str]:
    """Compare each zone's counters with its pages, and the sum of the zones with /proc/meminfo."""
    zones, report = audit.counters.zones, audit.report
    if {zone_name(zone) for zone in zones} != set(report.per_zone):
        yield f"there are zones {', '.join(map(zone_name, zones))}, and others in the report"
        return
    present = sum(zone.present for zone in zones) * PAGE_SIZE
    if report.present is not None and report.present != present:
        by_report = format_size(report.present)
        yield f"the zones have {format_size(present)}, but {by_report} by the report"
    listed = _size(report.total)
    told_apart = report.total.offline_resident is not None  # else no cell has the balloon's pages
    if told_apart and abs(listed - present) > UNLISTED_LIMIT * present:
        yield f"the cells hold {format_size(listed)}, the zones {format_size(present)}"
    for zone in zones:
        yield from _zone(zone)
    for field, pages in (
        ("MemFree", sum(zone.free for zone in zones)),
        ("MemTotal", sum(zone.managed for zone in zones)),
    ):
        told = audit.counters.meminfo.get(field)
        if told is None or abs(told - pages * PAGE_SIZE) > UNJUDGED_LIMIT * present:
            yield (
                f"{field} is {'empty' if told is None else format_size(told)}, and the zones make "
                f"{format_size(pages * PAGE_SIZE)}"
            )


def _listed(audit: Audited) -> Iterator[str]:
    """Check that the pages on the per-CPU lists are in no account of the guest's memory."""
    counters = audit.counters
    listed, total = percpu_free(counters.zones), counters.meminfo.get("MemTotal", 0)
    rest = unaccounted(counters) - compressed(counters)
    if listed > rest + ACCOUNTS_LAG * total:
        yield (
            f"the per-CPU lists hold {format_size(listed)}, but {format_size(max(0, rest))} of the "
            "guest's memory are in no account"
        )


def _zone(zone: Zone) -> Iterator[str]:
    """A zone's counters among themselves."""
    marks = zone.min <= zone.low <= zone.high
    if not (marks and zone.free <= zone.managed <= zone.present <= zone.spanned):
        yield f"zone {zone_name(zone)} has {zone}"
    buddies = sum(count << order for order, count in enumerate(zone.free_blocks))
    if abs(buddies - zone.free) > UNJUDGED_LIMIT * zone.present:
        yield f"zone {zone_name(zone)} has {zone.free} pages free, {buddies} in its free lists"


def _memory(audit: Audited, history: History) -> Iterator[str]:
    """Check that the zones have the memory that the guest was given."""
    ready = history.ready
    if ready is None or history.plugs:
        return
    present = sum(zone.present for zone in audit.counters.zones) * PAGE_SIZE + audit.put_offline
    if not (1 - MEMORY_LEFT_OUT) * ready.memory <= present <= ready.memory:
        less = present < ready.memory
        kept = " (does mem= or memmap= on its command line keep the rest from it?)" if less else ""
        yield (
            f"the zones have {format_size(present)}, the guest was given "
            f"{format_size(ready.memory)}{kept}"
        )


def _host(audit: Audited) -> Iterator[str]:
    """Compare what the host holds page by page with what it is charged with.

    The charge is read after the pages, and a busy guest moves memory meanwhile, or a pass reports
    what was just freed. The limit is that of a usable audit.
    """
    mapping, cells = audit.mapping, audit.report.total
    if mapping.rss != mapping.anonymous + mapping.shmem:
        yield "the parts of the mapping's RSS do not make it up"
    for name in ("lazyfree", "anon_huge"):
        if getattr(mapping, name) > mapping.rss:
            yield f"{name} is more than the {format_size(mapping.rss)} that are resident"
    resident = sum(getattr(cells, name) or 0 for name in _CELLS if name.endswith("_resident"))
    moved = min(UNJUDGED_LIMIT * _size(cells), max(resident, mapping.held) / 2)
    moved += cells.unstable + cells.unknown
    # A pass may take what is reportable between the two readings.
    taken = cells.free_large_resident + cells.free_new_resident
    # The pages of a file and the private copies, where they are not of the same pages.
    lowest, most = mapping.held - audit.put_offline, mapping.held + mapping.twice
    if not (lowest <= resident + moved and resident - moved - taken <= most):
        yield (
            f"the host holds {format_size(resident)} page by page, and {format_size(mapping.held)} "
            "by its accounts"
        )
    if audit.discards is not None and audit.report.reported_undiscarded is not None:
        reported = cells.reported
        if reported - audit.report.reported_undiscarded > audit.discards.bytes:
            yield (
                f"discards cover {format_size(reported)} that the guest reported, and QEMU "
                f"discarded {format_size(audit.discards.bytes)}"
            )


def _before_a_free(round_: Round, history: History) -> Iterator[str]:
    """What both sides said just before a free."""
    freed, mapping = round_.freed, round_.freed.before
    where = f"before the free at {freed.t:.1f} s "
    if mapping.rss != mapping.anonymous + mapping.shmem:
        yield where + "the parts of the mapping's RSS do not make it up"
    yield from (where + said for zone in freed.zones_before for said in _zone(zone))
    ready = history.ready
    if ready is None or history.plugs:
        return
    held = freed.bytes + freed.still_held
    if not held <= mapping.held + UNJUDGED_LIMIT * ready.memory or mapping.held > ready.memory:
        yield (
            f"{where}the churn tool held {format_size(held)}, the host "
            f"{format_size(mapping.held)} of the guest's {format_size(ready.memory)}"
        )
    if history.audits and not any(audit.put_offline for audit in history.audits):
        audited = {_span(zone) for zone in history.audits[-1].counters.zones}
        if audited != {_span(zone) for zone in freed.zones_before}:
            yield f"{where}the guest had other zones than at the last audit"


def _span(zone: Zone) -> tuple[int, ...]:
    """What of a zone stays while no memory comes or goes."""
    return zone.node, zone.start_pfn, zone.spanned, zone.present


def _lost_to_the_host(then: History) -> Iterator[str]:
    """At an audit: since the free the host got back no more than QEMU discarded.

    Never a byte more in any run seen; a host that splits huge pages may free parts that are zeros.
    What is lazily free goes by itself, and where the host was pressed it took what it wanted.
    """
    discards, ready = then.discards_since_free, then.ready
    if discards is None or ready is None or not then.rounds or then.pressed is not None:
        return
    if any(boot.discard == "free" for boot in then.boots) or then.audit is None:
        return
    fall = then.rounds[-1].freed.before.held - then.audit.mapping.held
    if fall > discards.bytes + UNJUDGED_LIMIT * ready.memory:
        yield (
            f"at audit {then.audit.name!r} the host held {format_size(fall)} less than before the "
            f"free, of which QEMU discarded {format_size(discards.bytes)}"
        )


def _ledger_of_discards(history: History) -> Iterator[str]:
    """Check that counts of discards never fall.

    They restart when the guest moves to another QEMU, or memory is plugged or unplugged.
    """
    read = [(e.t, e.discards) for e in history.audits if e.discards is not None]
    freed = (round_.freed for round_ in history.rounds)
    read += [(e.t, e.discards_before) for e in freed if e.discards_before is not None]
    anew = [move.t for move in history.moves if move.how != "cancelled"]
    anew += [plug.t for plug in history.plugs]
    ordered = sorted(read, key=lambda each: each[0])
    for (before, earlier), (now, later) in pairwise([(0.0, DiscardTotals(0, 0, 0, 0)), *ordered]):
        if any(before <= t <= now for t in anew):
            continue
        grown = later.since(earlier)
        if min(grown.calls, grown.bytes, grown.failed_calls, grown.failed_bytes) < 0:
            yield f"QEMU had discarded more after {before:.1f} s than after {now:.1f} s"
        if bool(later.calls) != bool(later.bytes):
            yield f"QEMU discarded {format_size(later.bytes)} in {later.calls} calls"


def _size(cells: CellTotals) -> int:
    return sum(getattr(cells, name) or 0 for name in _CELLS)
