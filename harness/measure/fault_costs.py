# SPDX-License-Identifier: Apache-2.0
"""Measures of page faults: how many a second the guest can take, and what reporting costs of them.

The cost is 1 - on / off, and for the driver unbound 1 - idle / off, by the ratios of the rounds:
rate n of one state against rate n of the other, which were measured in turn.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from harness.measure.terms import Family, Unit, overhead
from harness.record.history import History

CONFIDENCE = 0.95

_WAYS = "(process|thread)_(base|huge)"

_SLOW = overhead("the guest takes fewer page faults a second than it should")
_FAST = overhead("the guest takes more page faults a second than the scenario expects")
_DEAR = overhead("page faults of the guest cost too much")
_CHEAP = overhead("page faults of the guest cost less than the scenario expects")
_VAGUE = overhead("the page fault rates differ too much from round to round")
_SHARP = overhead("the page fault rates differ less from round to round than the scenario expects")


def half_width(values: Sequence[float]) -> float:
    """Half the width of the mean's 95 % confidence interval, of two values or more.

    Student's t, two-sided: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2.
    """
    # It takes half a second to load, and few runs need it.
    from scipy.special import stdtrit

    point = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return point * stdev(values) / math.sqrt(len(values))


def _rates(history: History) -> dict[tuple[str, str], list[float]]:
    """By way of measuring (`process_base`) and state of reporting (`on`), in order."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rate in history.fault_rates:
        rates[f"{rate.by}_{rate.pages}", rate.state].append(rate.per_second)
    return rates


def _costs(history: History) -> dict[tuple[str, str], list[float]]:
    rates = _rates(history)
    return {
        (way, state): [1 - value / other for value, other in zip(values, base, strict=False)]
        for (way, state), values in rates.items()
        if state != "off" and (base := rates.get((way, "off")))
    }


def _named(
    name: str,
    series: Callable[[History], dict[tuple[str, str], list[float]]],
    of: Callable[[Sequence[float]], float],
    least: int,
) -> Callable[[History], dict[str, float]]:
    """A number for each series that has `least` values or more."""
    return lambda history: {
        name.format(way=way, state=state): of(values)
        for (way, state), values in series(history).items()
        if len(values) >= least
    }


FAMILIES = (
    Family(
        pattern=rf"faults_{_WAYS}_(on|idle|off)_per_second",
        unit=Unit.PER_SECOND,
        meaning="mean page fault rate with reporting at work (`on`), offered but its driver "
        "unbound (`idle`), or not offered (`off`)",
        means_when_low=_SLOW,
        means_when_high=_FAST,
        compute=_named("faults_{way}_{state}_per_second", _rates, fmean, 1),
    ),
    Family(
        pattern=rf"faults_{_WAYS}_(on|idle|off)_ci_per_second",
        unit=Unit.PER_SECOND,
        meaning="half the width of the mean page fault rate's 95 % confidence interval",
        means_when_low=_SHARP,
        means_when_high=_VAGUE,
        compute=_named("faults_{way}_{state}_ci_per_second", _rates, half_width, 2),
    ),
    Family(
        pattern=rf"cost_{_WAYS}_(on|idle)_fraction",
        unit=Unit.FRACTION,
        meaning="1 - page fault rate / page fault rate with reporting off, the mean over rounds "
        "measured in turn",
        means_when_low=_CHEAP,
        means_when_high=_DEAR,
        compute=_named("cost_{way}_{state}_fraction", _costs, fmean, 1),
    ),
    Family(
        pattern=rf"cost_{_WAYS}_(on|idle)_ci_fraction",
        unit=Unit.FRACTION,
        meaning="half the width of the mean cost's 95 % confidence interval",
        means_when_low=_SHARP,
        means_when_high=_VAGUE,
        compute=_named("cost_{way}_{state}_ci_fraction", _costs, half_width, 2),
    ),
)
