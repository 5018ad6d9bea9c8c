# SPDX-License-Identifier: Apache-2.0
"""Measures of the guest's page fault rate, and of what reporting costs of it.

The cost is 1 - on / off, and with the driver unbound 1 - idle / off. It is the mean over rounds:
the n-th rate of one state is divided by the n-th rate of the other, measured just before or after.
If a run measures at several reporting orders, each order has measures of its own, such as
`faults_process_base_on_order0_per_second`, and there are none over all orders.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from harness.measure.terms import Family, Unit, overhead
from harness.record.history import History

CONFIDENCE = 0.95

_WAYS = "(process|thread)_(base|huge|file)"
_ORDER = r"(_order\d+)?"

_SLOW = overhead("the guest takes fewer page faults per second than it should")
_FAST = overhead("the guest takes more page faults per second than the scenario expects")
_DEAR = overhead("reporting costs too much of the guest's page fault rate")
_CHEAP = overhead("reporting costs less of the guest's page fault rate than the scenario expects")
_VAGUE = overhead("the page fault rates vary too much from round to round")
_SHARP = overhead("the page fault rates vary less from round to round than the scenario expects")


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the mean's 95 % confidence interval, for two values or more.

    Student's t, two-sided: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2.
    """
    # Imported here, because SciPy takes half a second to load and few runs need it.
    from scipy.special import stdtrit

    point = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return point * stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class _Series:
    """What a series of rates measures."""

    way: str
    """`process_base` and so on."""
    state: str
    """Of reporting: `on`."""
    order: int | None

    def name(self, form: str, several: bool) -> str:
        """Return the measure's name; with its order if there are `several`."""
        order = f"_order{self.order}" if several else ""
        return form.format(way=self.way, state=self.state + order)


def _rates(history: History) -> dict[_Series, list[float]]:
    """Return the rates of each series, in order."""
    rates: dict[_Series, list[float]] = defaultdict(list)
    for rate in history.fault_rates:
        series = _Series(f"{rate.by}_{rate.pages}", rate.state, rate.order)
        rates[series].append(rate.per_second)
    return rates


def _costs(history: History) -> dict[_Series, list[float]]:
    rates = _rates(history)
    return {
        series: [1 - value / other for value, other in zip(values, base, strict=False)]
        for series, values in rates.items()
        if series.state != "off" and (base := rates.get(replace(series, state="off")))
    }


def _named(
    name: str,
    rates: Callable[[History], dict[_Series, list[float]]],
    of: Callable[[Sequence[float]], float],
    least: int,
) -> Callable[[History], dict[str, float]]:
    """A number for each series that has `least` values or more."""

    def compute(history: History) -> dict[str, float]:
        several = len({rate.order for rate in history.fault_rates}) > 1
        return {
            series.name(name, several): of(values)
            for series, values in rates(history).items()
            if len(values) >= least
        }

    return compute


FAMILIES = (
    Family(
        pattern=rf"faults_{_WAYS}_(on|idle|off){_ORDER}_per_second",
        unit=Unit.PER_SECOND,
        meaning="mean page fault rate with reporting at work (`on`), offered but with the driver "
        "unbound (`idle`), or not offered (`off`)",
        means_when_low=_SLOW,
        means_when_high=_FAST,
        compute=_named("faults_{way}_{state}_per_second", _rates, fmean, 1),
    ),
    Family(
        pattern=rf"faults_{_WAYS}_(on|idle|off){_ORDER}_ci_per_second",
        unit=Unit.PER_SECOND,
        meaning="half the width of the mean page fault rate's 95 % confidence interval",
        means_when_low=_SHARP,
        means_when_high=_VAGUE,
        compute=_named("faults_{way}_{state}_ci_per_second", _rates, half_width, 2),
    ),
    Family(
        pattern=rf"cost_{_WAYS}_(on|idle){_ORDER}_fraction",
        unit=Unit.FRACTION,
        meaning="1 - page fault rate / page fault rate with reporting off, mean over the rounds",
        means_when_low=_CHEAP,
        means_when_high=_DEAR,
        compute=_named("cost_{way}_{state}_fraction", _costs, fmean, 1),
    ),
    Family(
        pattern=rf"cost_{_WAYS}_(on|idle){_ORDER}_ci_fraction",
        unit=Unit.FRACTION,
        meaning="half the width of the mean cost's 95 % confidence interval",
        means_when_low=_SHARP,
        means_when_high=_VAGUE,
        compute=_named("cost_{way}_{state}_ci_fraction", _costs, half_width, 2),
    ),
)
