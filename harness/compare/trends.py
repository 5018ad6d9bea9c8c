# SPDX-License-Identifier: Apache-2.0
"""The measures of one scenario over many runs, and whether they got worse. Pure.

The rule of `trend --fail-on-regression`: a measure has got worse if its latest change is in the
direction that `worse` names, at least `change_point.LEAST_SCATTERS` scatters and
`change_point.LEAST_PART` of the value before, and if chance would give so clear a change in any of
the series looked at with a probability below `ALPHA` (Bonferroni over the series).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from harness.compare.change_point import ChangePoint, latest_change
from harness.compare.comparison import LOOKED
from harness.record.run_history import PastRun

ALPHA = 0.01
"""Probability of any false alarm in one look at all series."""

ROLLING = 7
"""Runs of the rolling median: a week of nights."""

LOWER_IS_WORSE = ("reclaimed_bytes", "reclaimed_fraction", "worst_reclaimed_fraction")
HIGHER_IS_WORSE = (
    "boot_seconds",
    "console_findings",
    "first_fill_page_seconds",
    "free_drift_bytes",
    "held_absent_bytes",
    "integrity_mismatched_pages",
    "outside_growth_bytes",
    "refill_page_seconds",
    "reported_resident_bytes",
    "settle_seconds",
    "settle_t90_seconds",
    "unreported_free_bytes",
    "withheld_bytes",
)
"""Measures that mean the same in every scenario; of others no direction is worse."""


@dataclass(frozen=True)
class Series:
    """One measure of one scenario on one image, host, accelerator and QEMU, oldest run first."""

    scenario: str
    image: str
    where: str
    """Host, accelerator and the name of the QEMU."""
    measure: str
    runs: tuple[PastRun, ...]

    @property
    def values(self) -> list[float]:
        return [run.measures[self.measure] for run in self.runs]


@dataclass(frozen=True)
class Trend:
    """A series and its latest change."""

    series: Series
    rolling: tuple[float, ...]
    """Median of each value and up to `ROLLING` - 1 before it."""
    change: ChangePoint | None

    @property
    def got_worse(self) -> bool:
        """Whether the latest change is a regression."""
        change = self.change
        if change is None:
            return False
        if self.series.measure in LOWER_IS_WORSE:
            return change.after < change.before
        return self.series.measure in HIGHER_IS_WORSE and change.after > change.before


def all_series(runs: Iterable[PastRun], measures: Sequence[str] = ()) -> list[Series]:
    """Group the runs that could look; without `measures`, by all measures that have a direction."""
    wanted = measures or (*LOWER_IS_WORSE, *HIGHER_IS_WORSE)
    found: dict[tuple[str, str, str, str], list[PastRun]] = {}
    told = [run for run in runs if run.verdict in LOOKED]
    for run in sorted(told, key=lambda run: run.began):
        where = f"{run.host} {run.accel} {run.qemu_name}"
        for measure in wanted:
            if measure in run.measures:
                found.setdefault((run.scenario, run.image, where, measure), []).append(run)
    return [Series(*key, runs=tuple(those)) for key, those in found.items()]


def trends(series: Sequence[Series]) -> list[Trend]:
    """Find the latest change of each series."""
    vary = sum(len(set(each.values)) > 1 for each in series)
    return [
        Trend(each, _rolling(each.values), latest_change(each.values, ALPHA / max(1, vary)))
        for each in series
    ]


def _rolling(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(
        median(values[max(0, place - ROLLING + 1) : place + 1]) for place in range(len(values))
    )
