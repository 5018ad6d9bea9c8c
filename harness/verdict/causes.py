# SPDX-License-Identifier: Apache-2.0
"""Find the cause of a failed expectation: the layer, the bytes, and one sentence.

The record of a measure names the rule that applies if it is too low or too high; this module holds
the rules.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.kernel.zones import block_size
from harness.measure.measures import registered, unit_of
from harness.measure.places import below_watermark, place_sentence
from harness.measure.reclaim import worst_round
from harness.measure.terms import Means, Rule, Unit
from harness.measure.usable import usable_audit
from harness.record.facts import Cause, Verdict
from harness.record.history import History
from harness.units import format_size
from harness.verdict.expressions import Outcome
from harness.verdict.layers import (
    Blame,
    balloon_resident,
    disagreement,
    feature_off,
    not_discarded,
    not_reported,
    remaining,
    reported_resident,
    retained,
    settle_sentence,
    shortfall,
    unreported,
)


@dataclass(frozen=True)
class Case:
    """A failed expectation, and the history it was judged over."""

    history: History
    failed: Outcome

    @property
    def gap(self) -> float:
        """The amount by which the measure is out of its bounds."""
        assert self.failed.actual is not None
        assert self.failed.expected is not None
        return abs(self.failed.expected - self.failed.actual)


LEAST_LEFT = 1 / 16
"""Fraction of a guest's memory below which it may be short of it. With huge pages, the kernel sets
its zones' min watermarks to 5 % of memory at most (set_recommended_min_free_kbytes(),
mm/khugepaged.c), and low to 1.25 times that."""

_PARTIAL = frozenset({Cause.NOT_REPORTED, Cause.NOT_SETTLED, Cause.ACKED_NOT_DISCARDED})
"""Causes that may apply to only some nodes or zones."""

_STAYED = Blame(Cause.CONTROL_BROKEN, "memory came back that should have stayed")


def blame(history: History, failed: Outcome) -> Blame:
    """Say why an expectation failed; `history` is as it was when the expectation was judged."""
    audit_name, dot, name = failed.measure.rpartition(".")
    if dot:
        # A measure of an earlier audit is explained by what was known then.
        history = history.at(audit_name) or history
        failed = replace(failed, measure=name)
    found = _found(Case(history, failed))
    audit = usable_audit(history)
    if audit is not None and found.cause in _PARTIAL:
        where = place_sentence(audit, history.order)
        if where is not None:
            return replace(found, sentence=f"{where}; {found.sentence}")
    return found


def _found(case: Case) -> Blame:
    measure = registered(case.failed.measure)
    if measure is None:
        return _own(case)
    means = measure.means_when_low if case.failed.too_low else measure.means_when_high
    return _by_rule(means, case)


def _by_rule(means: Means, case: Case) -> Blame:
    if means.rule in IN_ITS_WORDS:
        return Blame(IN_ITS_WORDS[means.rule], means.words)
    if means.rule is Rule.NOT_AS_WRITTEN:
        return Blame(None, means.words, verdict=Verdict.ERROR)
    if means.rule in _NEED_REPORTING and (off := feature_off(case.history)) is not None:
        return off
    return _RULES[means.rule](case)


def _own(case: Case) -> Blame:
    """Blame a number that the scenario's steps measure on the cause that the scenario names."""
    said = (own.means for own in case.history.own if own.name == case.failed.measure)
    means = next(said, None) or Cause.OVERHEAD
    if means is Cause.FEATURE_OFF and case.failed.too_high:
        means = Cause.CONTROL_BROKEN
    return Blame(means, "a measure of the scenario's own is out of its bounds")


def _shortfall(case: Case) -> Blame:
    history, missing = case.history, case.gap
    if case.failed.measure == "reported_bytes" and (found := _unmarked(history)) is not None:
        return found
    if case.failed.measure == "worst_reclaimed_fraction":
        worst = worst_round(history)
        history = history if worst is None else history.round_end(worst)
    if unit_of(case.failed.measure) is Unit.FRACTION:
        missing *= history.rounds[-1].freed.bytes
    return shortfall(history, missing)


def _unmarked(history: History) -> Blame | None:
    """Blame a guest that reports blocks and marks none, if that is what it does."""
    discards, audit = history.discards_since_free, usable_audit(history)
    if audit is None or discards is None or audit.report.reported_by_order:
        return None
    if discards.bytes < block_size(history.order):
        return None
    return Blame(
        Cause.OVERHEAD,
        f"the guest reported {format_size(discards.bytes)}, which QEMU discarded, but marks no "
        "block as reported, and so reports them again and again",
        discards.bytes,
        explains=True,
    )


def _stayed(_case: Case) -> Blame:
    return _STAYED


def _came_back_soon(_case: Case) -> Blame:
    return Blame(Cause.CONTROL_BROKEN, "memory came back sooner than it should have")


def _place(case: Case) -> Blame:
    """Blame the layer that keeps memory in some node or zone."""
    return (
        not_discarded(case.history)
        or not_reported(case.history, unreported(case.history))
        or Blame(Cause.NOT_REPORTED, "a node or zone gave too little back")
    )


def _unreported(case: Case) -> Blame:
    of_settle = case.failed.measure == "remaining_bytes"
    size = remaining(case.history) if of_settle else unreported(case.history)
    found = not_reported(case.history, size)
    return found or Blame(Cause.NOT_REPORTED, "the guest did not report what it could")


def _reported_resident(case: Case) -> Blame:
    kept = "the host holds memory that the guest reported"
    return not_discarded(case.history) or Blame(Cause.ACKED_NOT_DISCARDED, kept)


def _discard_failed(case: Case) -> Blame:
    size = round(case.failed.actual or 0)
    failed = f"QEMU failed to discard {format_size(size)}"
    return disagreement(case.history) or Blame(Cause.ACKED_NOT_DISCARDED, failed, size)


def _lazy(case: Case) -> Blame:
    size = round(case.failed.actual or 0)
    sentence = f"{format_size(size)} of guest memory are lazily free on the host"
    return Blame(Cause.LAZILY_FREE, sentence, size)


def _in_balloon(case: Case) -> Blame:
    size = round(case.failed.actual or 0)
    kept = f"the host holds {format_size(size)} of memory in the balloon, or plugged and not in use"
    return balloon_resident(case.history) or Blame(Cause.ACKED_NOT_DISCARDED, kept, size)


def _not_lazy(case: Case) -> Blame:
    """Blame too little lazily free memory: it is gone, or was never discarded."""
    kept = reported_resident(case.history) - round(case.failed.actual or 0)
    if kept < block_size(case.history.order):
        return _STAYED
    return Blame(
        Cause.ACKED_NOT_DISCARDED,
        f"{format_size(kept)} that the guest reported are resident on the host and not lazily "
        "free: the discard had no effect",
        kept,
    )


def _slow(case: Case) -> Blame:
    return Blame(Cause.NOT_SETTLED, settle_sentence(case.history))


def _watermark(case: Case) -> Blame:
    """Blame the larger of the two contradictions to the watermark rule."""
    kept, below = unreported(case.history), below_watermark(case.history) or 0
    found = not_reported(case.history, kept) if kept >= below else None
    return found or Blame(Cause.CONTROL_BROKEN, "a zone below its watermark reported memory", below)


def _retained(case: Case) -> Blame:
    return retained(case.history)


def _lost(case: Case) -> Blame:
    audit = case.history.audit
    if audit is None or not audit.report.suspect_bytes:
        sentence = "the guest uses memory that the host does not hold (never touched, or lost)"
        return Blame(Cause.DATA_LOSS, sentence)
    pfns = audit.report.suspect_pfns
    where = f" (first at PFN {pfns[0]:#x})" if pfns else ""
    return Blame(
        Cause.DATA_LOSS,
        f"{format_size(audit.report.suspect_bytes)} that the guest uses were on the host at an "
        f"earlier audit and are gone: suspected loss{where}",
    )


def _console(case: Case) -> Blame:
    findings = [trouble.finding for trouble in case.history.troubles]
    if (asked := _asked_too_much(case.history)) is not None:
        return Blame(None, asked, verdict=Verdict.ERROR)
    ours = [finding for finding in findings if _EXPLAINS.search(finding.text)]
    found = next(iter((*ours, *findings)), None)
    shown = "trouble" if found is None else found.title
    # What a step ran into says so itself.
    on_console = found is None or found.on_console
    sentence = f"the guest's console shows: {shown}" if on_console else shown
    return Blame(Cause.KERNEL_WARNING, sentence, explains=bool(ours))


def _asked_too_much(history: History) -> str | None:
    """Say that all trouble came of a churn that left the guest next to no memory, if it did."""
    if history.ready is None:
        return None
    said = None
    for trouble in reversed(history.troubles):
        asked, title = trouble.asked, trouble.finding.title
        if asked is None or not title.startswith("OOM kill"):
            return None
        if asked.available - asked.bytes > history.ready.memory * LEAST_LEFT:
            return None
        said = (
            f"a churn of {format_size(asked.bytes)} leaves too little of the "
            f"{format_size(asked.available)} that the guest has available (let it fill less, or "
            f"give the guest more memory): the guest's console shows: {title}"
        )
    return said


def _blind(case: Case) -> Blame:
    size = format_size(round(case.failed.actual or 0))
    sentence = f"the audit could not judge {size}, which is too much to judge the run"
    return Blame(None, sentence, verdict=Verdict.MISS)


_EXPLAINS = re.compile(
    r"page_report|virtballoon|virtio_balloon|balloon_report|Bad page (?:state|map)|bad p[g4um]d "
    r"|pagealloc: (?:memory|single)"
)
"""Functions of mm/page_reporting.c and drivers/virtio/virtio_balloon.c in a trace, and damage to
pages and page tables (mm/page_alloc.c, page_poison.c, memory.c), which makes the guest's counters
wrong."""

_NEED_REPORTING = frozenset(
    {
        Rule.SHORTFALL,
        Rule.CAME_BACK_SOON,
        Rule.PLACE,
        Rule.UNREPORTED,
        Rule.REPORTED_RESIDENT,
        Rule.SLOW,
    }
)
"""Rules whose first explanation is that free page reporting was off."""

_RULES: dict[Rule, Callable[[Case], Blame]] = {
    Rule.SHORTFALL: _shortfall,
    Rule.CAME_BACK: _stayed,
    Rule.CAME_BACK_SOON: _came_back_soon,
    Rule.PLACE: _place,
    Rule.UNREPORTED: _unreported,
    Rule.REPORTED_RESIDENT: _reported_resident,
    Rule.IN_BALLOON: _in_balloon,
    Rule.DISCARD_FAILED: _discard_failed,
    Rule.LAZY: _lazy,
    Rule.NOT_LAZY: _not_lazy,
    Rule.SLOW: _slow,
    Rule.WATERMARK: _watermark,
    Rule.RETAINED: _retained,
    Rule.LOST: _lost,
    Rule.CONSOLE: _console,
    Rule.BLIND: _blind,
}
"""Rules that search for the cause."""

IN_ITS_WORDS: dict[Rule, Cause] = {
    Rule.KEPT: Cause.GUEST_RETAINED,
    Rule.STILL_CHARGED: Cause.STILL_CHARGED,
    Rule.LAZY_UNTIL_PRESSED: Cause.LAZILY_FREE,
    Rule.NOT_REPORTED: Cause.NOT_REPORTED,
    Rule.CONTROL: Cause.CONTROL_BROKEN,
    Rule.DAMAGE: Cause.DATA_LOSS,
    Rule.MISCOUNTED: Cause.KERNEL_WARNING,
    Rule.OVERHEAD: Cause.OVERHEAD,
}
"""Rules for which the measure has the sentence, with their causes."""
