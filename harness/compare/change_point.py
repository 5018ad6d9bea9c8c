# SPDX-License-Identifier: Apache-2.0
"""Where a series of values changed, if it did. Pure.

The split with the least distances to the medians of its sides is judged by the Mann-Whitney test of
the values before against those after (Ann. Math. Statist. 18, 1947), which assumes no distribution.
Its p is multiplied by the number of splits it was chosen from (Bonferroni). A change that is small
beside the scatter is no change, however sure it is. One that was soon undone may be missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
from scipy.stats import mannwhitneyu

LEAST_SIDE = 5
"""Values on each side of a change: fewer cannot be told from chance among so many series."""

LEAST_SCATTERS = 3.0
"""Size of a change: so many standard deviations from one run to the next."""

LEAST_PART = 0.05
"""Size of a change: this part of the median before."""

_SIGMA = 1.4826
"""The median absolute deviation of normal values, times this, is their standard deviation."""


@dataclass(frozen=True)
class ChangePoint:
    """The values from `index` on differ from those before."""

    index: int
    before: float
    """Median of the values since the previous change."""
    after: float
    """Median of the values from `index` on."""
    p: float
    """Probability of such a split if nothing has changed, corrected for the number of splits."""


def latest_change(values: Sequence[float], alpha: float) -> ChangePoint | None:
    """Return the latest change of a series that is large enough and has a p below `alpha`."""
    begin, found = 0, None
    while True:
        change = _best_split(values[begin:])
        if change is None or change.p >= alpha or not _is_large(values[begin:], change):
            return found
        found = ChangePoint(begin + change.index, change.before, change.after, change.p)
        begin = found.index


def _best_split(values: Sequence[float]) -> ChangePoint | None:
    count = len(values)
    splits = range(LEAST_SIDE, count - LEAST_SIDE + 1)
    if not splits or len(set(values)) == 1:
        return None
    index = min(splits, key=lambda split: _off(values[:split]) + _off(values[split:]))
    before, after = values[:index], values[index:]
    p = float(mannwhitneyu(before, after, alternative="two-sided").pvalue)
    return ChangePoint(index, median(before), median(after), min(1.0, p * len(splits)))


def _off(values: Sequence[float]) -> float:
    """Return the sum of the distances to the median, which single outliers do not rule."""
    return float(np.abs(np.asarray(values) - np.median(values)).sum())


def _is_large(values: Sequence[float], change: ChangePoint) -> bool:
    # From one run to the next: steps hardly count in it.
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    scatter = _SIGMA * median(steps) / 2**0.5
    least = max(LEAST_SCATTERS * scatter, LEAST_PART * abs(change.before))
    return abs(change.after - change.before) > least
