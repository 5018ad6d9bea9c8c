# SPDX-License-Identifier: Apache-2.0
"""The measures of a run: numbers derived from its events.

`MEASURES` is their list and their documentation. A measure that was not taken is absent, never 0.
Page measures come from the latest audit, and only if nothing was freed after it and it could judge
at least 95 % of the guest's pages: an audit that is out of date or half blind has not looked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from harness.kernel.pages import CellTotals
from harness.kernel.zones import MAX_ORDER, REPORTING_CAPACITY
from harness.measure.places import PLACE_FAMILIES, PLACE_MEASURES, place_measures
from harness.measure.retention import (
    RETENTION_MEASURES,
    kept_since,
    percpu_free,
    retention_measures,
)
from harness.measure.step_measures import STEP_FAMILIES, STEP_MEASURES, step_measures
from harness.record.events import (
    Audited,
    Ballooned,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    DevicePlugged,
    Event,
    GuestMoved,
    GuestReady,
    OrderRead,
    Pressed,
    Settled,
)
from harness.record.facts import DiscardTotals, HostMapping
from harness.units import PAGE_SIZE

UNJUDGED_LIMIT = 0.05
"""Share of pages that may change during an audit, or have no host state, before it says nothing."""

MEASURES: dict[str, str] = {
    "freed_bytes": "bytes the churn tool freed in the latest round",
    "reclaimed_bytes": "bytes the host got back since the latest free: held before less held now",
    "reclaimed_fraction": "reclaimed_bytes / freed_bytes",
    "worst_reclaimed_fraction": "the lowest reclaimed_fraction over all rounds",
    "rounds": "how many times the churn tool freed memory",
    "reclaimable_bytes": "the part of freed_bytes that the reporting rule can give back: less what "
    "is free since then below the order, under a watermark, or on the guest's per-CPU lists",
    "reported_bytes": "bytes in blocks the guest has reported and not reused",
    "discarded_bytes": "bytes QEMU discarded since the latest free, or since launch without one",
    "failed_discard_bytes": "bytes QEMU failed to discard, likewise",
    "reported_resident_bytes": "bytes reported and still held by the host",
    "unreported_free_bytes": "bytes free in blocks of the order and above, in a zone above its "
    "watermark, not reported and held by the host",
    "retained_free_bytes": "bytes free below the order or under a watermark, held by the host",
    "percpu_free_bytes": "bytes free on the guest's per-CPU lists, where nothing is reported: up "
    "to `high` pages of zoneinfo for each CPU and zone, whole huge pages among them (5.14 on)",
    "remaining_bytes": "bytes that could still be reported when the latest settle ended",
    "used_absent_bytes": "bytes used by the guest that the host does not hold",
    "held_absent_bytes": "bytes the churn tool held and the host had lost, at worst in any audit",
    "suspect_bytes": "bytes used now and absent now that an earlier audit saw used and resident",
    "unjudged_bytes": "bytes the latest audit could not judge: changing, or without host state",
    "lazyfree_bytes": "bytes of guest RAM the host holds as lazily freed",
    "huge_bytes": "bytes of guest RAM the host holds in anonymous huge pages",
    "pressed_bytes": "bytes the host gave up under the latest pressure",
    "first_fill_page_seconds": "time per page of the first fill by the churn tool",
    "refill_page_seconds": "time per page of its latest fill after the first",
    "residue_growth_bytes": "held after the last round's settle less held after the first round's",
    "settle_seconds": "from the start of the latest settle to the last movement",
    "settle_t50_seconds": "until half of what came back in the latest settle had",
    "settle_t90_seconds": "until nine tenths of what came back in the latest settle had",
    "integrity_mismatched_pages": "pages of the churn tool found changed, over all its checks",
    "console_findings": "what the console watcher found: crashes, hangs and warnings",
    "held_bytes": "bytes the host was charged with for guest RAM at the latest audit",
    "charged_bytes": "bytes QEMU's control group was charged with at the latest audit",
    "swapped_bytes": "bytes of guest RAM in the host's swap at the latest audit",
    "file_bytes": "bytes allocated to the file or memfd behind guest RAM at the latest audit",
    "rss_bytes": "bytes of guest RAM resident in QEMU at the latest audit",
    "merged_bytes": "bytes of QEMU that the host's KSM had merged with equal pages, likewise",
    "guest_free_bytes": "the guest's own MemFree, likewise",
    **PLACE_MEASURES,
    **RETENTION_MEASURES,
    **STEP_MEASURES,
    "memory_bytes": "configured guest memory",
    "block_bytes": "size of a block of the reporting order",
    "batch_bytes": "32 blocks: what the guest hands over in one call",
    "boot_seconds": "from launch to the guest's answer over SSH",
}
"""Every measure by name, with its unit as the name's ending."""

FAMILIES = {**PLACE_FAMILIES, **STEP_FAMILIES}
"""Measures of one place or one way of measuring each: a pattern of their names."""

HOST_MEASURES = frozenset(
    {
        "held_bytes",
        "rss_bytes",
        "lazyfree_bytes",
        "huge_bytes",
        "swapped_bytes",
        "charged_bytes",
        "file_bytes",
        "merged_bytes",
    }
)
"""Those that the host alone tells, at an audit and while a scenario awaits them."""

AUDIT_MEASURES = frozenset(
    {
        "reclaimable_bytes",
        "reported_bytes",
        "discarded_bytes",
        "failed_discard_bytes",
        "reported_resident_bytes",
        "unreported_free_bytes",
        "retained_free_bytes",
        "percpu_free_bytes",
        "used_absent_bytes",
        "held_absent_bytes",
        "suspect_bytes",
        "unjudged_bytes",
        "guest_free_bytes",
        *HOST_MEASURES,
        *PLACE_MEASURES,
        *RETENTION_MEASURES,
    }
)
"""Those that only an audit takes."""


@dataclass(frozen=True)
class Round:
    """From a free to the next taking or freeing of memory: what was freed and where it ended."""

    freed: ChurnFreed
    end: int
    """Index of the first event after the round."""
    settled: Settled | None
    """The last one in the round."""
    audited: Audited | None
    held: int | None
    """HostMapping.held as the last settle or audit of the round saw it."""

    @property
    def reclaimed(self) -> int | None:
        return None if self.held is None else self.freed.before.held - self.held

    @property
    def fraction(self) -> float | None:
        if self.reclaimed is None or not self.freed.bytes:
            return None
        return self.reclaimed / self.freed.bytes


def rounds_of(events: Sequence[Event]) -> list[Round]:
    """The rounds of a run, in order."""
    result = []
    for start, freed in enumerate(events):
        if not isinstance(freed, ChurnFreed):
            continue
        end = next(
            (
                index
                for index in range(start + 1, len(events))
                if isinstance(events[index], ChurnFreed | ChurnHeld)
            ),
            len(events),
        )
        settled: Settled | None = None
        audited: Audited | None = None
        held: int | None = None
        for event in events[start:end]:
            if isinstance(event, Settled):
                settled, held = event, event.held
            elif isinstance(event, Audited):
                audited, held = event, event.mapping.held
            elif isinstance(event, Pressed):
                held = event.after.held
        result.append(Round(freed, end, settled, audited, held))
    return result


_OUTDATE_AUDIT = (Ballooned, ChurnFreed, ChurnHeld, DevicePlugged, GuestMoved, Pressed)
"""Events that move memory: what an audit saw before is no longer so."""


def current_audit(events: Sequence[Event]) -> Audited | None:
    """The latest audit, unless memory was taken, freed or moved since: then it is out of date."""
    for event in reversed(events):
        if isinstance(event, Audited):
            return event
        if isinstance(event, _OUTDATE_AUDIT):
            return None
    return None


def judged_share(cells: CellTotals) -> float:
    """Share of the audited pages that could be judged; 0.0 for an audit of no pages."""
    parts = {field.name: getattr(cells, field.name) for field in fields(cells)}
    del parts["held_absent"]  # lies within used_absent
    total = sum(parts.values())
    return 1 - (cells.unstable + cells.unknown) / total if total else 0.0


def is_usable(audit: Audited) -> bool:
    """Whether an audit saw enough of the guest to be believed."""
    return judged_share(audit.report.total) >= 1 - UNJUDGED_LIMIT


def usable_audit(events: Sequence[Event]) -> Audited | None:
    """The current audit, if it can be believed."""
    audit = current_audit(events)
    return audit if audit is not None and is_usable(audit) else None


def measure(events: Sequence[Event]) -> dict[str, float]:
    """Every measure that can be taken from these events. Bytes are whole numbers."""
    rounds = rounds_of(events)
    return {
        **_guest(events),
        **_rounds(rounds),
        **_settle(events),
        **_audit(events, rounds),
        **_whole_run(events),
        **step_measures(events),
    }


def reporting_order(events: Sequence[Event]) -> int:
    """The order the guest reports at by the end of these events; -1 where none was read."""
    order = -1
    for event in events:
        if isinstance(event, GuestReady):
            order = event.page_reporting_order
        elif isinstance(event, OrderRead):
            order = event.read
    return order


def _guest(events: Sequence[Event]) -> dict[str, float]:
    ready = next((event for event in events if isinstance(event, GuestReady)), None)
    if ready is None:
        return {}
    found: dict[str, float] = {"memory_bytes": ready.memory, "boot_seconds": ready.boot_seconds}
    order = reporting_order(events)
    if 0 <= order <= MAX_ORDER:
        found["block_bytes"] = PAGE_SIZE << order
        found["batch_bytes"] = REPORTING_CAPACITY * found["block_bytes"]
    return found


def _rounds(rounds: Sequence[Round]) -> dict[str, float]:
    if not rounds:
        return {}
    last = rounds[-1]
    found: dict[str, float] = {"freed_bytes": last.freed.bytes, "rounds": len(rounds)}
    if last.reclaimed is not None:
        found["reclaimed_bytes"] = last.reclaimed
    if last.fraction is not None:
        found["reclaimed_fraction"] = last.fraction
    fractions = [round_.fraction for round_ in rounds]
    known = [fraction for fraction in fractions if fraction is not None]
    if len(known) == len(fractions):
        found["worst_reclaimed_fraction"] = min(known)
    first_settled, last_settled = rounds[0].settled, last.settled
    if len(rounds) > 1 and first_settled is not None and last_settled is not None:
        found["residue_growth_bytes"] = last_settled.held - first_settled.held
    return found


def _settle(events: Sequence[Event]) -> dict[str, float]:
    settled = current_settle(events)
    if settled is None:
        return {}
    found: dict[str, float] = {"settle_seconds": settled.seconds}
    if settled.remaining is not None:
        found["remaining_bytes"] = settled.remaining
    if settled.t50 is not None:
        found["settle_t50_seconds"] = settled.t50
    if settled.t90 is not None:
        found["settle_t90_seconds"] = settled.t90
    return found


def current_settle(events: Sequence[Event]) -> Settled | None:
    """The latest settle, unless memory was taken or freed since."""
    for event in reversed(events):
        if isinstance(event, Settled):
            return event
        if isinstance(event, ChurnFreed | ChurnHeld):
            return None
    return None


def _audit(events: Sequence[Event], rounds: Sequence[Round]) -> dict[str, float]:
    audit = current_audit(events)
    if audit is None:
        return {}
    total = audit.report.total
    found: dict[str, float] = {
        **host_measures(audit.mapping),
        "unjudged_bytes": total.unstable + total.unknown,
        "percpu_free_bytes": percpu_free(audit.counters.zones),
    }
    if "MemFree" in audit.counters.meminfo:
        found["guest_free_bytes"] = audit.counters.meminfo["MemFree"]
    discards = discards_since_free(events, audit)
    if discards is not None:
        found |= {
            "discarded_bytes": discards.bytes,
            "failed_discard_bytes": discards.failed_bytes,
        }
    if usable_audit(events) is None:
        return found
    found |= {
        "reported_bytes": total.reported_resident + total.reported_absent,
        "reported_resident_bytes": total.reported_resident,
        "unreported_free_bytes": total.free_large_resident,
        "retained_free_bytes": total.free_small_resident,
        "used_absent_bytes": total.used_absent,
        "suspect_bytes": audit.report.suspect_bytes,
        **place_measures(
            [event for event in events if isinstance(event, Audited)], reporting_order(events)
        ),
        **retention_measures(audit, audit_before(events, rounds[-1].freed) if rounds else None),
    }
    if rounds:
        freed = rounds[-1].freed
        kept = kept_since(freed, audit, reporting_order(events))
        found["reclaimable_bytes"] = max(0, freed.bytes - kept.total)
    return found


def discards_since_free(events: Sequence[Event], audit: Audited) -> DiscardTotals | None:
    """What QEMU discarded up to the audit: since the latest free, or since launch without one.

    None where it was not read; where the guest moved after that free, for the other QEMU's trace
    knows nothing of it; and where memory was plugged or unplugged, for a trace says where a discard
    was only while that memory is there.
    """
    now = audit.discards
    for event in reversed(events):
        if (isinstance(event, GuestMoved) and event.how != "cancelled") or (
            isinstance(event, DevicePlugged) and event.bytes
        ):
            return None if any(isinstance(e, ChurnFreed) for e in events) else now
        if isinstance(event, ChurnFreed):
            before = event.discards_before
            return None if now is None or before is None else now.since(before)
    return now


def host_measures(mapping: HostMapping) -> dict[str, float]:
    """What the host alone tells, at any moment."""
    found: dict[str, float | None] = {
        "held_bytes": mapping.held,
        "rss_bytes": mapping.rss,
        "lazyfree_bytes": mapping.lazyfree,
        "huge_bytes": mapping.anon_huge,
        "swapped_bytes": mapping.swap,
        "charged_bytes": mapping.cgroup_current,
        "file_bytes": mapping.file_blocks,
        "merged_bytes": mapping.merged,
    }
    return {name: value for name, value in found.items() if value is not None}


def audit_before(events: Sequence[Event], freed: ChurnFreed) -> Audited | None:
    """The last audit before a free, if it can be believed."""
    start = next(index for index, event in enumerate(events) if event is freed)
    audits = [event for event in events[:start] if isinstance(event, Audited)]
    return audits[-1] if audits and is_usable(audits[-1]) else None


def _whole_run(events: Sequence[Event]) -> dict[str, float]:
    found: dict[str, float] = {}
    audits = [event for event in events if isinstance(event, Audited)]
    lost = max((audit.report.total.held_absent for audit in audits), default=0)
    if lost or (audits and all(is_usable(audit) for audit in audits)):
        found["held_absent_bytes"] = lost
    pressed = [event for event in events if isinstance(event, Pressed)]
    if pressed:
        found["pressed_bytes"] = pressed[-1].before.held - pressed[-1].after.held
    held = [event for event in events if isinstance(event, ChurnHeld) and event.bytes]
    fills = [event.seconds * PAGE_SIZE / event.bytes for event in held]
    if fills:
        found["first_fill_page_seconds"] = fills[0]
    if len(fills) > 1:
        found["refill_page_seconds"] = fills[-1]
    checks = [event for event in events if isinstance(event, ChurnVerified)]
    if any(check.bytes for check in checks):
        found["integrity_mismatched_pages"] = sum(check.mismatched_pages for check in checks)
    findings = sum(isinstance(event, ConsoleFinding) for event in events)
    if findings or any(isinstance(event, GuestReady) for event in events):
        found["console_findings"] = findings
    return found
