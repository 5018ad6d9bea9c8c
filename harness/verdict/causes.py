# SPDX-License-Identifier: Apache-2.0
"""From a failed expectation to its cause: which layer, how many bytes, in one sentence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import block_size
from harness.measure.measures import (
    current_audit,
    current_settle,
    measure,
    reporting_order,
    rounds_of,
    usable_audit,
)
from harness.measure.places import PLACE_FAMILIES, place_sentence
from harness.measure.retention import RETENTION_MEASURES
from harness.record.events import Audited, DriverChanged, Event, GuestReady, Measured
from harness.record.facts import Cause
from harness.units import format_size
from harness.verdict.expressions import Outcome
from harness.verdict.ledgers import ledgers_of, reconcile
from harness.verdict.retained import retained_reasons

RETURNED = frozenset(
    {
        "reclaimed_bytes",
        "reclaimed_fraction",
        "worst_reclaimed_fraction",
        "reported_bytes",
        "discarded_bytes",
        "crowd_guests",
    }
)
"""Measures that grow as memory comes back."""

WASTED = frozenset(
    {
        "reported_resident_bytes",
        "unreported_free_bytes",
        "remaining_bytes",
        "lazyfree_bytes",
        "failed_discard_bytes",
        "residue_growth_bytes",
    }
)
"""Measures that grow as memory fails to come back."""

LOST = frozenset(
    {"integrity_mismatched_pages", "held_absent_bytes", "suspect_bytes", "used_absent_bytes"}
)
PLACED = frozenset({"worst_node_returned_fraction", "worst_zone_returned_fraction"})
"""Measures of the place that fares worst."""

HOST_CHARGES = frozenset(
    {
        "held_bytes",
        "rss_bytes",
        "file_bytes",
        "charged_bytes",
        "swapped_bytes",
        "merged_bytes",
        "crowd_held_bytes",
        "crowd_peak_bytes",
        "crowd_growth_bytes",
        "crowd_available_fall_bytes",
    }
)
"""What the host is charged with, by its several accounts."""

_PARTIAL = frozenset({Cause.NOT_REPORTED, Cause.NOT_SETTLED, Cause.ACKED_NOT_DISCARDED})
"""Causes that may hold for some nodes or zones only."""

_SLOW = re.compile(r"settle(_t50|_t90)?_seconds|(settle|node\d+_[A-Z]\w*)_t90_(seconds|ratio)")
"""Measures of how long memory took to come back."""

_COSTS = {
    "boot_seconds": "the guest took too long to boot",
    "slowest_sleep_seconds": "the guest took too long to wake",
    "slowest_plug_seconds": "the guest took too long to take or let go of a device",
    "slowest_move_seconds": "the guest took too long to move",
    "first_fill_page_seconds": "memory took too long to fill",
    "refill_page_seconds": "memory that had come back took too long to fill again",
}
"""Measures of time, and what it means that one is too long."""


@dataclass(frozen=True)
class Blame:
    """A cause and the sentence that explains it. No cause: the scenario itself did not happen."""

    cause: Cause | None
    sentence: str
    size: int = 0
    """Bytes the cause accounts for."""


_BELOW_REPORTED = Blame(Cause.CONTROL_BROKEN, "a zone under its watermark reported memory")


def blame(events: Sequence[Event], failed: Outcome) -> Blame:
    """Why this expectation failed. `events`: up to the moment at which it was judged."""
    audit_name, dot, name = failed.measure.rpartition(".")
    if dot:
        # What was so at an earlier audit is explained by what was known then.
        events = events[: 1 + _last_audit(events, audit_name)]
        failed = replace(failed, measure=name)
    found = _blame(events, failed)
    audit = usable_audit(events)
    if audit is not None and found.cause in _PARTIAL:
        where = place_sentence(audit, reporting_order(events))
        if where is not None:
            return replace(found, sentence=f"{where}; {found.sentence}")
    return found


def _blame(events: Sequence[Event], failed: Outcome) -> Blame:
    name = failed.measure
    if failed.too_low and (name in PLACED or any(re.fullmatch(f, name) for f in PLACE_FAMILIES)):
        off = feature_off(events)
        return Blame(Cause.FEATURE_OFF, off) if off is not None else _worst_place(events)
    if name in RETENTION_MEASURES and failed.too_high:
        return Blame(Cause.GUEST_RETAINED, "the guest keeps what it was to let go")
    if name == "huge_bytes" and failed.too_low:
        return Blame(
            Cause.OVERHEAD, "the host holds the guest in small pages that were huge ones before"
        )
    if name in HOST_CHARGES and failed.too_high:
        off = feature_off(events)
        if off is not None:
            return Blame(Cause.FEATURE_OFF, off)
        return _blame_shortfall(events, _shortfall(events, failed))
    if name == "lazyfree_bytes" and failed.too_low:
        return _not_lazy(events)
    if (name in RETURNED and failed.too_high) or (name in WASTED and failed.too_low):
        return Blame(Cause.CONTROL_BROKEN, "memory came back that should have stayed")
    if name in RETURNED | WASTED or _SLOW.fullmatch(name):
        off = feature_off(events)
        if off is not None and name not in ("lazyfree_bytes", "failed_discard_bytes"):
            return Blame(Cause.FEATURE_OFF, off)
    if name in RETURNED or name == "residue_growth_bytes":
        return _blame_shortfall(_worst_round(events, name), _shortfall(events, failed))
    if name in LOST and failed.too_high:
        return Blame(Cause.DATA_LOSS, _loss_sentence(events))
    if name in ("reclaimable_bytes", "guest_free_bytes") and failed.too_low:
        return _retained(events)
    if name == "console_findings" and failed.too_high:
        return Blame(Cause.KERNEL_WARNING, "the guest's console shows trouble")
    if name in _COSTS and failed.too_high:
        return Blame(Cause.OVERHEAD, _COSTS[name])
    if name.startswith(("cost_", "faults_")):
        return Blame(Cause.OVERHEAD, "page faults of the guest cost too much")
    if name == "rule_error_bytes" and failed.too_high:
        return _direct(events, "unreported_free_bytes") or _BELOW_REPORTED
    if name == "below_watermark_reported_bytes" and failed.too_high:
        return _BELOW_REPORTED
    if name in ("tail_reported_bytes", "tail_discarded_bytes") and failed.too_high:
        return Blame(
            Cause.DATA_LOSS,
            "what lies in the last, partial block of a zone was given away, though no block of "
            "the order fits there",
        )
    if _SLOW.fullmatch(name) and failed.too_high:
        return Blame(Cause.NOT_SETTLED, _settle_sentence(events))
    own = next((e for e in events if isinstance(e, Measured) and e.name == name), None)
    if own is not None:
        means = own.means or Cause.OVERHEAD
        if means is Cause.FEATURE_OFF and failed.too_high:
            means = Cause.CONTROL_BROKEN
        return Blame(means, "what the scenario itself measures is out of its bounds")
    direct = _direct(events, name) if failed.too_high else None
    return direct or Blame(None, "the run was not what the scenario says")


def _last_audit(events: Sequence[Event], name: str) -> int:
    return max(i for i, e in enumerate(events) if isinstance(e, Audited) and e.name == name)


def _worst_place(events: Sequence[Event]) -> Blame:
    """The layer at fault, for the place where least came back."""
    return (
        _direct(events, "reported_resident_bytes")
        or _direct(events, "unreported_free_bytes")
        or Blame(Cause.NOT_REPORTED, "a node or zone gave too little back")
    )


def _not_lazy(events: Sequence[Event]) -> Blame:
    """Less is lazily free than should be: it is gone, or was never freed at all."""
    values = measure(events)
    kept = round(values.get("reported_resident_bytes", 0) - values.get("lazyfree_bytes", 0))
    if kept >= block_size(reporting_order(events)):
        return Blame(
            Cause.ACKED_NOT_DISCARDED,
            f"{format_size(kept)} the guest reported are resident on the host and not marked as "
            "lazily free: the discard did nothing",
            kept,
        )
    return Blame(Cause.CONTROL_BROKEN, "memory came back that should have stayed")


def feature_off(events: Sequence[Event]) -> str | None:
    """What says that reporting was off at the end of these events, or None."""
    ready = next((event for event in events if isinstance(event, GuestReady)), None)
    if ready is None:
        return None
    if not ready.offered:
        return "the balloon device does not offer free page reporting (feature bit 5)"
    if not ready.negotiated:
        return f"the guest's driver ({ready.kernel}) did not accept free page reporting"
    changes = [event for event in events if isinstance(event, DriverChanged)]
    if changes and not changes[-1].bound:
        return "the balloon driver was not bound to its device"
    if changes and not changes[-1].reporting:
        return "the balloon device plugged last does not offer free page reporting"
    return None


def _worst_round(events: Sequence[Event], name: str) -> Sequence[Event]:
    """The events a measure is about: up to the end of the worst round, or all."""
    if name != "worst_reclaimed_fraction":
        return events
    rounds = [r for r in rounds_of(events) if r.fraction is not None]
    return events[: min(rounds, key=lambda r: r.fraction or 0.0).end]


def _shortfall(events: Sequence[Event], failed: Outcome) -> float:
    """Bytes missing from (or too many for) what was expected."""
    assert failed.actual is not None
    assert failed.expected is not None
    gap = abs(failed.expected - failed.actual)
    if failed.measure.endswith("_fraction"):
        return gap * measure(_worst_round(events, failed.measure)).get("freed_bytes", 0)
    return gap


def _blame_shortfall(events: Sequence[Event], shortfall: float) -> Blame:
    """The first layer, from the host inwards, that accounts for half of what is missing.

    If none does, the one that accounts for most.
    """
    order = reporting_order(events)
    ledgers = ledgers_of(events)
    ways: list[Blame] = []
    disagreement = reconcile(ledgers, block_size(order)) if ledgers else None
    if disagreement is not None:
        ways.append(Blame(disagreement.cause, disagreement.sentence, disagreement.size))
    # What remains may long have been given back; only without an audit is it the best there is.
    unreported = _direct(events, "unreported_free_bytes" if ledgers else "remaining_bytes")
    if unreported is not None:
        ways.append(unreported)
    ways.append(_retained(events))
    enough = next((way for way in ways if way.size >= shortfall / 2), None)
    if enough is not None:
        return enough
    most = max(ways, key=lambda way: way.size)
    if not most.size:
        return most
    return Blame(
        most.cause,
        f"{most.sentence}, which explains {format_size(most.size)} of the "
        f"{format_size(round(shortfall))} missing; the guest uses the rest",
        most.size,
    )


def _retained(events: Sequence[Event]) -> Blame:
    """The guest keeps it, for the reason with the most bytes."""
    reasons = retained_reasons(events, reporting_order(events))
    if reasons:
        return Blame(Cause.GUEST_RETAINED, reasons[0].sentence, reasons[0].size)
    return Blame(
        Cause.GUEST_RETAINED,
        "everything the guest can report has come back; it uses the rest"
        if ledgers_of(events)
        else "no audit was taken that could say where the rest is",
    )


def _loss_sentence(events: Sequence[Event]) -> str:
    audit = current_audit(events)
    if audit is None or not audit.report.suspect_bytes:
        return "the guest uses memory the host does not hold (never touched, or lost)"
    pfns = audit.report.suspect_pfns
    where = f" (first at PFN {pfns[0]:#x})" if pfns else ""
    return (
        f"{format_size(audit.report.suspect_bytes)} the guest uses were on the host at an earlier "
        f"audit and are gone now: suspected loss{where}"
    )


def _direct(events: Sequence[Event], name: str) -> Blame | None:
    """The cause a measure of waste names by itself, if it has any bytes."""
    values = measure(events)
    size = round(values.get(name, 0))
    if size <= 0:
        return None
    order = reporting_order(events)
    match name:
        case "unreported_free_bytes" | "remaining_bytes":
            settled = current_settle(events)
            if settled is not None and settled.outcome is SettleOutcome.MOVING:
                return Blame(Cause.NOT_SETTLED, _settle_sentence(events), size)
            return Blame(
                Cause.NOT_REPORTED,
                f"{format_size(size)} are free in the guest in blocks of at least "
                f"{format_size(block_size(order))}, above the watermark, and were never reported",
                size,
            )
        case "lazyfree_bytes":
            sentence = f"{format_size(size)} of guest memory are lazily free on the host"
            return Blame(Cause.LAZILY_FREE, sentence, size)
        case "reported_resident_bytes" | "failed_discard_bytes":
            ledgers = ledgers_of(events)
            found = reconcile(ledgers, block_size(order)) if ledgers else None
            if found is not None:
                return Blame(found.cause, found.sentence, found.size)
            sentence = f"QEMU failed to discard {format_size(size)}"
            return Blame(Cause.ACKED_NOT_DISCARDED, sentence, size)
        case "retained_free_bytes":
            return _retained(events)
    return None


def _settle_sentence(events: Sequence[Event]) -> str:
    settled = current_settle(events)
    if settled is None:
        return "memory had not settled"
    if settled.outcome is SettleOutcome.MOVING:
        rest = "" if settled.remaining is None else f", {format_size(settled.remaining)} remained"
        return f"memory was still coming back when the settle deadline passed{rest}"
    return f"memory kept coming back for {settled.seconds:.1f} s"
