# SPDX-License-Identifier: Apache-2.0
"""Measures of a crowd: how many guests fit at once, and how much the host holds for them."""

from collections.abc import Callable, Sequence

from harness.measure.terms import Means, Measure, Rule, Unit
from harness.record.events import CrowdGrew
from harness.record.history import History

_SHORTFALL, _CAME_BACK = Means(Rule.SHORTFALL), Means(Rule.CAME_BACK)


def _grown(
    pick: Callable[[Sequence[CrowdGrew]], int],
) -> Callable[[History], float | None]:
    """Compute over the settled guests, once the crowd is full."""
    return lambda history: pick(history.crowd) if history.crowd_full and history.crowd else None


def _guests(history: History) -> int | None:
    if history.crowd_full is None:
        return None
    return max((grown.guests for grown in history.crowd), default=0)


MEASURES = (
    Measure(
        name="crowd_guests",
        unit=Unit.COUNT,
        meaning="number of guests that fit under the crowd's limit at once",
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=_guests,
    ),
    Measure(
        name="crowd_held_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the host held for all guests of the crowd when the last had settled",
        means_when_low=_CAME_BACK,
        means_when_high=_SHORTFALL,
        compute=_grown(lambda crowd: crowd[-1].held),
    ),
    Measure(
        name="crowd_peak_bytes",
        unit=Unit.BYTES,
        meaning="the most bytes that the host ever held for all guests of the crowd together",
        means_when_low=_CAME_BACK,
        means_when_high=_SHORTFALL,
        compute=_grown(lambda crowd: max(grown.peak for grown in crowd)),
    ),
    Measure(
        name="crowd_growth_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the host held for the crowd after the last guest, less those after "
        "the first",
        means_when_low=_CAME_BACK,
        means_when_high=_SHORTFALL,
        compute=_grown(lambda crowd: crowd[-1].held - crowd[0].held),
    ),
    Measure(
        name="crowd_available_fall_bytes",
        unit=Unit.BYTES,
        meaning="the host's MemAvailable after the crowd's first guest, less that after the last",
        means_when_low=_CAME_BACK,
        means_when_high=_SHORTFALL,
        compute=_grown(lambda crowd: crowd[0].available - crowd[-1].available),
    ),
)
