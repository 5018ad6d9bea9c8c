# SPDX-License-Identifier: Apache-2.0
"""Measures of the rounds: what the churn tool freed, and how much of it came back to the host."""

from collections.abc import Callable

from harness.measure.retention import kept_since
from harness.measure.terms import (
    Means,
    Measure,
    Rule,
    TakenBy,
    Unit,
    not_as_written,
    overhead,
)
from harness.measure.usable import usable_audit
from harness.record.events import ChurnHeld
from harness.record.history import History, Round
from harness.units import PAGE_SIZE

_SHORTFALL, _CAME_BACK = Means(Rule.SHORTFALL), Means(Rule.CAME_BACK)


def _latest(pick: Callable[[Round], float | None]) -> Callable[[History], float | None]:
    return lambda history: pick(history.rounds[-1]) if history.rounds else None


def worst_round(history: History) -> int | None:
    """Return the index of the round with the lowest fraction reclaimed; None without any."""
    fractions = [round_.fraction for round_ in history.rounds]
    known = [(part, number) for number, part in enumerate(fractions) if part is not None]
    return min(known)[1] if known else None


def _worst_fraction(history: History) -> float | None:
    fractions = [round_.fraction for round_ in history.rounds]
    known = [fraction for fraction in fractions if fraction is not None]
    return min(known) if known and len(known) == len(fractions) else None


def _reclaimable(history: History) -> int | None:
    audit = usable_audit(history)
    if audit is None or not history.rounds:
        return None
    freed = history.rounds[-1].freed
    return max(0, freed.bytes - kept_since(freed, audit, history.order).total)


def _residue_growth(history: History) -> int | None:
    if len(history.rounds) < 2:
        return None
    first, last = history.rounds[0].settled, history.rounds[-1].settled
    return None if first is None or last is None else last.held - first.held


def _page_seconds(fill: ChurnHeld) -> float:
    return fill.seconds * PAGE_SIZE / fill.bytes


def _first_fill(history: History) -> float | None:
    fills = [fill for fill in history.fills if fill.bytes]
    return _page_seconds(fills[0]) if fills else None


def _refill(history: History) -> float | None:
    fills = [fill for fill in history.fills if fill.bytes]
    return _page_seconds(fills[-1]) if len(fills) > 1 else None


MEASURES = (
    Measure(
        name="freed_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the churn tool freed in the latest round",
        means_when_low=not_as_written("the churn tool freed less than the scenario asks for"),
        means_when_high=not_as_written("the churn tool freed more than the scenario asks for"),
        compute=_latest(lambda round_: round_.freed.bytes),
    ),
    Measure(
        name="reclaimed_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the host got back since the latest free: what it held for the guest "
        "just before the free, less what it holds now",
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=_latest(lambda round_: round_.reclaimed),
    ),
    Measure(
        name="reclaimed_fraction",
        unit=Unit.FRACTION,
        meaning="`reclaimed_bytes` / `freed_bytes`",
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=_latest(lambda round_: round_.fraction),
    ),
    Measure(
        name="worst_reclaimed_fraction",
        unit=Unit.FRACTION,
        meaning="the lowest `reclaimed_fraction` of all rounds",
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=_worst_fraction,
    ),
    Measure(
        name="rounds",
        unit=Unit.COUNT,
        meaning="number of times that the churn tool freed memory",
        means_when_low=not_as_written(
            "the churn tool freed memory fewer times than the scenario asks for"
        ),
        means_when_high=not_as_written(
            "the churn tool freed memory more often than the scenario asks for"
        ),
        compute=lambda history: len(history.rounds) or None,
    ),
    Measure(
        name="reclaimable_bytes",
        unit=Unit.BYTES,
        meaning="the part of `freed_bytes` that can be reported: all except the growth of free "
        "memory below the reporting order, below the watermark, and on the per-CPU lists, and what "
        "has been free for less than two passes",
        taken_by=TakenBy.AUDIT,
        means_when_low=Means(Rule.RETAINED),
        means_when_high=not_as_written(
            "the guest can report more of what was freed than the scenario sets up"
        ),
        compute=_reclaimable,
    ),
    Measure(
        name="residue_growth_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the host held when the last round had settled, less those when the "
        "first round had",
        means_when_low=_CAME_BACK,
        means_when_high=_SHORTFALL,
        compute=_residue_growth,
    ),
    Measure(
        name="first_fill_page_seconds",
        unit=Unit.SECONDS,
        meaning="time per page of the churn tool's first fill",
        means_when_low=not_as_written("memory filled faster than the scenario expects"),
        means_when_high=overhead("memory took too long to fill"),
        compute=_first_fill,
    ),
    Measure(
        name="refill_page_seconds",
        unit=Unit.SECONDS,
        meaning="time per page of the churn tool's latest fill; absent before a second fill",
        means_when_low=not_as_written("memory filled again faster than the scenario expects"),
        means_when_high=overhead("memory that the host had got back took too long to fill again"),
        compute=_refill,
    ),
)
