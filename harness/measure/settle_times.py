# SPDX-License-Identifier: Apache-2.0
"""Measures of settling: how long memory took to come back, and how much was left to report."""

from collections.abc import Callable

from harness.measure.terms import Family, Means, Measure, Rule, Unit
from harness.record.events import Settled
from harness.record.history import History

_SLOW, _SOON = Means(Rule.SLOW), Means(Rule.CAME_BACK_SOON)


def _current(pick: Callable[[Settled], float | None]) -> Callable[[History], float | None]:
    return lambda history: None if history.settle is None else pick(history.settle)


def _by_clock(pick: Callable[[Settled], float | None]) -> Callable[[History], float | None]:
    """Like `_current`, for a time: under a virtual clock neither the host's seconds nor the
    guest's, of which an idle one skips most, say anything of the guest."""
    return lambda history: None if _virtual(history) else _current(pick)(history)


def _virtual(history: History) -> bool:
    return history.ready is not None and history.ready.clock == "virtual"


def _compared(history: History) -> tuple[Settled, Settled] | None:
    """Return the first and the latest settle in which memory came back.

    They may be the same. None if no memory came back in the latest settle.
    """
    timed = [settle for settle in history.settles if settle.t90]
    if _virtual(history) or not timed or timed[-1] is not history.settles[-1]:
        return None
    return timed[0], timed[-1]


def _t90_ratio(history: History) -> float | None:
    settles = _compared(history)
    if settles is None or settles[0] is settles[1]:
        return None
    first, last = settles[0].t90, settles[1].t90
    return last / first if first and last else None


def _zone_t90s(history: History) -> dict[str, float]:
    settles = _compared(history)
    if settles is None:
        return {}
    return {f"{_flat(zone)}_t90_seconds": t90 for zone, t90 in settles[1].zone_t90.items()}


def _zone_t90_ratios(history: History) -> dict[str, float]:
    settles = _compared(history)
    if settles is None or settles[0] is settles[1]:
        return {}
    first, last = settles[0].zone_t90, settles[1].zone_t90
    return {
        f"{_flat(zone)}_t90_ratio": last[zone] / t90
        for zone, t90 in first.items()
        if t90 and zone in last
    }


def _flat(zone: str) -> str:
    """Turn the name of a zone (`node0/DMA32`) into a part of a measure's name."""
    return zone.replace("/", "_")


MEASURES = (
    Measure(
        name="settle_seconds",
        unit=Unit.SECONDS,
        meaning="time from the start of the latest settle to the last change in memory",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_by_clock(lambda settle: settle.seconds),
    ),
    Measure(
        name="settle_t50_seconds",
        unit=Unit.SECONDS,
        meaning="time from the start of the latest settle until half of the memory that came back "
        "in it was back",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_by_clock(lambda settle: settle.t50),
    ),
    Measure(
        name="settle_t90_seconds",
        unit=Unit.SECONDS,
        meaning="time from the start of the latest settle until 90 % of the memory that came back "
        "in it was back",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_by_clock(lambda settle: settle.t90),
    ),
    Measure(
        name="settle_t90_ratio",
        unit=Unit.RATIO,
        meaning="`settle_t90_seconds` of the latest settle / that of the first settle after a free",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_t90_ratio,
    ),
    Measure(
        name="remaining_bytes",
        unit=Unit.BYTES,
        meaning="bytes that could still be reported when the latest settle ended",
        means_when_low=Means(Rule.CAME_BACK),
        means_when_high=Means(Rule.UNREPORTED),
        compute=_current(lambda settle: settle.remaining),
    ),
)

FAMILIES = (
    Family(
        pattern=r"node\d+_[A-Z]\w*_t90_seconds",
        unit=Unit.SECONDS,
        meaning="time from the start of the latest settle until this zone had reported 90 % of its "
        "reportable memory",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_zone_t90s,
    ),
    Family(
        pattern=r"node\d+_[A-Z]\w*_t90_ratio",
        unit=Unit.RATIO,
        meaning="this zone's `t90_seconds` in the latest settle / that in the first settle after a "
        "free",
        means_when_low=_SOON,
        means_when_high=_SLOW,
        compute=_zone_t90_ratios,
    ),
)
