# SPDX-License-Identifier: Apache-2.0
"""What the page shows of a comparison: each measure's values in A and B, and what they can show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.compare.comparison import Comparison, MeasureCompared, compare
from harness.compare.two_samples import Shift
from harness.compare.words import amount, conclusion, interval, measure_words, verdict_words
from harness.record.sides import side_of, side_words
from harness.report.summary import RunSummary

_ORDER = ("differs", "not-told", "too-few", "one-sided")


@dataclass(frozen=True)
class Spread:
    """The values of one side; places are parts of the width of a strip, 0 to 1."""

    label: str
    dots: tuple[float, ...]
    middle: float
    """Place of the median."""
    words: str
    """The median."""


@dataclass(frozen=True)
class Interval:
    """The interval of B - A in a strip that has room for no difference, too."""

    low: float
    difference: float
    high: float
    none: float
    words: str


@dataclass(frozen=True)
class MeasureSpread:
    """One measure in A and B."""

    measure: str
    differs: bool
    words: str
    sides: tuple[Spread, ...]
    ends: tuple[str, str]
    """The values at the ends of the strip."""
    interval: Interval | None
    """None if there were too few runs."""


@dataclass(frozen=True)
class ScenarioSpread:
    """One scenario in A and B."""

    scenario: str
    verdicts: str
    measures: tuple[MeasureSpread, ...]
    """Those that differ come first; those that are the same in all runs are left out."""
    same: int
    """Number of measures that are the same in all runs."""


@dataclass(frozen=True)
class Distributions:
    """A comparison."""

    sides: tuple[tuple[str, str], ...]
    """Label and meaning."""
    conclusion: str
    scenarios: tuple[ScenarioSpread, ...]


def view_comparison(directory: Path, runs: Sequence[RunSummary]) -> Distributions | None:
    """Compare the runs of A and B in a results directory; None if no scenario has both."""
    a, b = ([run for run in runs if side_of(run.run_id) == label] for label in "AB")
    found = compare(a, b)
    if not found.verdicts:
        return None
    return Distributions(
        sides=tuple(side_words(directory).items()),
        conclusion=conclusion(found),
        scenarios=tuple(
            ScenarioSpread(each.scenario, verdict_words(each), *_measures(found, each.scenario))
            for each in found.verdicts
        ),
    )


def _measures(found: Comparison, scenario: str) -> tuple[tuple[MeasureSpread, ...], int]:
    own = [each for each in found.measures if each.scenario == scenario]
    shown = sorted(
        (each for each in own if each.answer in _ORDER), key=lambda each: _ORDER.index(each.answer)
    )
    return tuple(_measure(each, found.needed) for each in shown), len(own) - len(shown)


def _measure(each: MeasureCompared, needed: int) -> MeasureSpread:
    low, high = min(*each.a, *each.b), max(*each.a, *each.b)
    return MeasureSpread(
        measure=each.measure,
        differs=each.answer == "differs",
        words=measure_words(each, needed),
        sides=tuple(
            Spread(
                label,
                tuple(_place(value, low, high) for value in values),
                _place(median(values), low, high),
                amount(each.measure, median(values)),
            )
            for label, values in (("A", each.a), ("B", each.b))
            if values
        ),
        ends=(amount(each.measure, low), amount(each.measure, high)),
        interval=_interval(each.measure, each.shift)
        if each.shift and each.answer != "too-few"
        else None,
    )


def _interval(measure: str, shift: Shift) -> Interval:
    low, high = min(0.0, shift.low), max(0.0, shift.high)
    return Interval(
        low=_place(shift.low, low, high),
        difference=_place(shift.difference, low, high),
        high=_place(shift.high, low, high),
        none=_place(0.0, low, high),
        words=interval(measure, shift),
    )


def _place(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
