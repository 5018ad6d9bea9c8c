# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness trend`: each measure over time, and where it changed."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from harness.compare.change_point import LEAST_SIDE
from harness.compare.trend_words import change_words
from harness.compare.trends import Trend, all_series, trends
from harness.compare.words import amount
from harness.errors import UNAVAILABLE, UsageError
from harness.record.results_directory import DEFAULT_BASE
from harness.record.run_history import HISTORY_NAME, read_history
from harness.report.live_rows import LEVELS
from harness.report.screen import ScreenConsole
from harness.safe_text import safe_line

WORSE = 1

CURVE = 30
"""Runs that a curve shows, the latest."""


def execute(options: argparse.Namespace) -> int:
    """Print the trends; returns 0 unless `--fail-on-regression` was given.

    With it, 1 if one got worse, and 69 if no series is long enough for a change to be seen. Raises
    `UsageError`, `RecordError`.
    """
    path: Path = options.history or DEFAULT_BASE / HISTORY_NAME
    if not path.exists():
        raise UsageError(
            f"there is no history {path}",
            hint="runs without --results, and those with --history FILE, append to one",
        )
    runs = [
        run
        for run in read_history(path)
        if not options.scenarios or run.scenario in options.scenarios
    ]
    found = trends(all_series(runs, options.measure))
    if not found:
        raise UsageError(
            f"{path} has nothing to show: {len(runs)} runs, none with such a measure",
            hint="check the names of scenarios and measures, and that runs end with a verdict",
        )
    console = ScreenConsole(markup=False, highlight=False)
    for line in lines(found, everything=bool(options.scenarios or options.measure)):
        console.print(safe_line(line), soft_wrap=True)
    if not options.fail_on_regression:
        return 0
    if any(trend.got_worse for trend in found):
        return WORSE
    return UNAVAILABLE if _short(found) == len(found) else 0


def _short(found: list[Trend]) -> int:
    """Count the series that are too short for a change to be seen."""
    return sum(len(trend.series.runs) < 2 * LEAST_SIDE for trend in found)


def lines(found: list[Trend], *, everything: bool) -> Iterator[str]:
    """Yield a line for each trend that changed, or for all, and what they come to."""
    for trend in found:
        if trend.change is None and not everything:
            continue
        series = trend.series
        place = f"{series.scenario} {series.image} ({series.where})"
        latest = amount(series.measure, trend.rolling[-1])
        yield f"{place}: {series.measure} {curve(series.values[-CURVE:])} {latest}"
        if trend.change is not None:
            yield f"  {change_words(trend)}"
    worse = sum(trend.got_worse for trend in found)
    changed = sum(trend.change is not None for trend in found)
    short = _short(found)
    told = f"{len(found)} series, {changed} changed, {worse} of them for the worse"
    yield told + (f"; {short} have fewer than {2 * LEAST_SIDE} runs" if short else "")


def curve(values: list[float]) -> str:
    """Draw values between the lowest and the highest."""
    low, high = min(values), max(values)
    steps = len(LEVELS) - 2
    return "".join(
        LEVELS[1 + (round((value - low) / (high - low) * steps) if high > low else 0)]
        for value in values
    )
