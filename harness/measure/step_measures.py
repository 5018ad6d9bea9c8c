# SPDX-License-Identifier: Apache-2.0
"""Measures that single steps take: sleeps, plugs, moves, the balloon, orders, busy processes."""

from collections.abc import Callable

from harness.measure.terms import Means, Measure, Rule, Unit, not_as_written, overhead
from harness.record.events import DevicePlugged, GuestMoved, Suspended
from harness.record.history import History

Timed = Suspended | DevicePlugged | GuestMoved


def _slowest(pick: Callable[[History], tuple[Timed, ...]]) -> Callable[[History], float | None]:
    return lambda history: max((event.seconds for event in pick(history)), default=None)


def _plugged(history: History) -> int | None:
    if not history.plugs:
        return None
    return sum(plug.bytes if plug.present else -plug.bytes for plug in history.plugs)


def _unslept(history: History) -> int | None:
    if not history.sleeps:
        return None
    return sum(not sleep.slept for sleep in history.sleeps)


def _order_refused(history: History) -> float | None:
    asked = [read for read in history.orders if read.asked is not None]
    return float(asked[-1].refused) if asked else None


MEASURES = (
    Measure(
        name="sleeps",
        unit=Unit.COUNT,
        meaning="how many times the guest was suspended and came back",
        means_when_low=not_as_written("the guest slept fewer times than the scenario asks for"),
        means_when_high=not_as_written("the guest slept more often than the scenario asks for"),
        compute=lambda history: len(history.sleeps) or None,
    ),
    Measure(
        name="unslept",
        unit=Unit.COUNT,
        meaning="how many of the guest's suspends its own count does not confirm",
        means_when_low=not_as_written(
            "the guest confirms more of its suspends than the scenario expects"
        ),
        means_when_high=not_as_written(
            "the guest does not confirm that it slept when it was suspended"
        ),
        compute=_unslept,
    ),
    Measure(
        name="slowest_sleep_seconds",
        unit=Unit.SECONDS,
        meaning="the longest suspend, from the order to sleep to the guest's answer",
        means_when_low=not_as_written("the guest woke faster than the scenario expects"),
        means_when_high=overhead("the guest took too long to wake"),
        compute=_slowest(lambda history: history.sleeps),
    ),
    Measure(
        name="plugged_bytes",
        unit=Unit.BYTES,
        meaning="bytes of memory plugged beside the guest's own at this moment",
        means_when_low=not_as_written("less memory is plugged than the scenario asks for"),
        means_when_high=not_as_written("more memory is plugged than the scenario asks for"),
        compute=_plugged,
    ),
    Measure(
        name="slowest_plug_seconds",
        unit=Unit.SECONDS,
        meaning="the longest that a device took to come or go",
        means_when_low=not_as_written("devices came and went faster than the scenario expects"),
        means_when_high=overhead("the guest took too long to take or let go of a device"),
        compute=_slowest(lambda history: history.plugs),
    ),
    Measure(
        name="ballooned_bytes",
        unit=Unit.BYTES,
        meaning="bytes of memory that the balloon has left the guest",
        means_when_low=not_as_written("the balloon left the guest less than the scenario asks for"),
        means_when_high=not_as_written(
            "the balloon left the guest more than the scenario asks for"
        ),
        compute=lambda history: None if history.ballooned is None else history.ballooned.bytes,
    ),
    Measure(
        name="busy_rounds",
        unit=Unit.COUNT,
        meaning="rounds of taking and freeing memory that the ended busy processes got through",
        means_when_low=overhead("the busy processes got through too few rounds"),
        means_when_high=not_as_written(
            "the busy processes got through more rounds than the scenario expects"
        ),
        compute=lambda history: sum(b.rounds for b in history.busy) if history.busy else None,
    ),
    Measure(
        name="raced_bytes",
        unit=Unit.BYTES,
        meaning="bytes that `race` took again just after the guest had reported them; absent where "
        "it got none of them, so that nothing was tried",
        means_when_low=not_as_written("too little memory was taken again as it was reported"),
        means_when_high=not_as_written(
            "more memory was taken again as it was reported than the scenario expects"
        ),
        compute=lambda history: sum(race.reused for race in history.races) or None,
    ),
    Measure(
        name="moves",
        unit=Unit.COUNT,
        meaning="how many times the guest moved to another QEMU, or began to",
        means_when_low=not_as_written("the guest moved fewer times than the scenario asks for"),
        means_when_high=not_as_written("the guest moved more often than the scenario asks for"),
        compute=lambda history: len(history.moves) or None,
    ),
    Measure(
        name="slowest_move_seconds",
        unit=Unit.SECONDS,
        meaning="the longest move of the guest to another QEMU",
        means_when_low=not_as_written("the guest moved faster than the scenario expects"),
        means_when_high=overhead("the guest took too long to move"),
        compute=_slowest(lambda history: history.moves),
    ),
    Measure(
        name="order_read",
        unit=Unit.COUNT,
        meaning="the reporting order that the latest `order` step read in the guest",
        means_when_low=not_as_written("the guest reports at a lower order than the scenario needs"),
        means_when_high=not_as_written(
            "the guest reports at a higher order than the scenario needs"
        ),
        compute=lambda history: history.orders[-1].read if history.orders else None,
    ),
    Measure(
        name="order_refused",
        unit=Unit.COUNT,
        meaning="1 where the guest refused the order that the latest `order` step with `set` asked "
        "for, else 0",
        means_when_low=Means(Rule.CONTROL, "the guest took an order that it should refuse"),
        means_when_high=not_as_written("the guest refused the order that the scenario asks for"),
        compute=_order_refused,
    ),
)
