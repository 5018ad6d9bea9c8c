# SPDX-License-Identifier: Apache-2.0
"""What the page shows of past runs: each measure's curve, its rolling median, and its change."""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.compare.trend_words import change_words
from harness.compare.trends import Trend, all_series, trends
from harness.compare.words import amount
from harness.html.curve_size import HEIGHT, WIDTH
from harness.record.run_history import PastRun
from harness.report.summary import RunSummary

MOST_RUNS = 120
"""Runs that a curve shows, the latest."""

LEAST_RUNS = 3
"""Runs from which on a series has a curve."""


@dataclass(frozen=True)
class PastCurve:
    """One series."""

    scenario: str
    place: str
    """Image, host, accelerator and QEMU."""
    measure: str
    latest: str
    """The rolling median at the latest run."""
    runs: int
    dots: tuple[tuple[float, float], ...]
    """Coordinates of the values."""
    rolling: str
    """Points of the rolling median."""
    ends: tuple[str, str]
    """The lowest and the highest value shown."""
    change: str
    """What changed and when; empty if nothing did."""
    change_at: float | None
    """Coordinate of the change; None if there was none, or it is not shown."""
    worse: bool


def view_past(past: Iterable[PastRun], present: Iterable[RunSummary]) -> tuple[PastCurve, ...]:
    """Lay out the series of the scenarios and images of the present runs.

    Those that got worse come first, then those that changed.
    """
    wanted = {(run.scenario, run.image) for run in present}
    series = all_series(run for run in past if (run.scenario, run.image) in wanted)
    found = trends([each for each in series if len(each.runs) >= LEAST_RUNS])
    found.sort(key=lambda trend: (not trend.got_worse, trend.change is None))
    return tuple(_curve(trend) for trend in found)


def _curve(trend: Trend) -> PastCurve:
    series = trend.series
    values, rolling = series.values[-MOST_RUNS:], trend.rolling[-MOST_RUNS:]
    hidden = len(series.values) - len(values)
    low, high = min(values), max(values)

    def x(place: int) -> float:
        return WIDTH * place / (len(values) - 1)

    def y(value: float) -> float:
        return HEIGHT * (1 - (value - low) / (high - low)) if high > low else HEIGHT / 2

    change = trend.change
    shown = change is not None and change.index >= hidden
    return PastCurve(
        scenario=series.scenario,
        place=f"{series.image}, {series.where}",
        measure=series.measure,
        latest=amount(series.measure, rolling[-1]),
        runs=len(series.values),
        dots=tuple((x(place), y(value)) for place, value in enumerate(values)),
        rolling=" ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(rolling)),
        ends=(amount(series.measure, low), amount(series.measure, high)),
        change=change_words(trend) if change else "",
        change_at=x(change.index - hidden) - WIDTH / (len(values) - 1) / 2
        if change and shown
        else None,
        worse=trend.got_worse,
    )
