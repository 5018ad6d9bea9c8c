# SPDX-License-Identifier: Apache-2.0
"""Measures of single steps: sleeps, plugs, moves, the balloon, orders, busy processes, races."""

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


def _early(history: History) -> int | None:
    known = [race.early for race in history.races if race.early is not None]
    return sum(known) if known else None


MEASURES = (
    Measure(
        name="sleeps",
        unit=Unit.COUNT,
        meaning="number of times that the guest was suspended and resumed",
        means_when_low=not_as_written("the guest slept fewer times than the scenario asks for"),
        means_when_high=not_as_written("the guest slept more often than the scenario asks for"),
        compute=lambda history: len(history.sleeps) or None,
    ),
    Measure(
        name="unslept",
        unit=Unit.COUNT,
        meaning="number of suspends that the guest's own counter (suspend_stats) does not confirm",
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
        meaning="time of the longest suspend, from the request to sleep to the guest's answer",
        means_when_low=not_as_written("the guest woke faster than the scenario expects"),
        means_when_high=overhead("the guest took too long to wake"),
        compute=_slowest(lambda history: history.sleeps),
    ),
    Measure(
        name="plugged_bytes",
        unit=Unit.BYTES,
        meaning="bytes of memory that are plugged in addition to the guest's own",
        means_when_low=not_as_written("less memory is plugged than the scenario asks for"),
        means_when_high=not_as_written("more memory is plugged than the scenario asks for"),
        compute=_plugged,
    ),
    Measure(
        name="slowest_plug_seconds",
        unit=Unit.SECONDS,
        meaning="longest time that plugging or unplugging a device took",
        means_when_low=not_as_written(
            "devices were plugged and unplugged faster than the scenario expects"
        ),
        means_when_high=overhead("the guest took too long to accept or release a device"),
        compute=_slowest(lambda history: history.plugs),
    ),
    Measure(
        name="ballooned_bytes",
        unit=Unit.BYTES,
        meaning="bytes of memory that the balloon leaves to the guest",
        means_when_low=not_as_written("the balloon left the guest less than the scenario asks for"),
        means_when_high=not_as_written(
            "the balloon left the guest more than the scenario asks for"
        ),
        compute=lambda history: None if history.ballooned is None else history.ballooned.bytes,
    ),
    Measure(
        name="busy_rounds",
        unit=Unit.COUNT,
        meaning="rounds of allocating and freeing memory that the busy processes completed",
        means_when_low=overhead("the busy processes completed too few rounds"),
        means_when_high=not_as_written(
            "the busy processes completed more rounds than the scenario expects"
        ),
        compute=lambda history: sum(b.rounds for b in history.busy) if history.busy else None,
    ),
    Measure(
        name="raced_bytes",
        unit=Unit.BYTES,
        meaning="bytes that `race` allocated again just after the guest had reported them; absent "
        "if it got none of them, so that nothing was tested",
        means_when_low=not_as_written(
            "too little memory was allocated again just after it was reported"
        ),
        means_when_high=not_as_written(
            "more memory was allocated again just after it was reported than the scenario expects"
        ),
        compute=lambda history: sum(race.reused for race in history.races) or None,
    ),
    Measure(
        name="given_back_early_bytes",
        unit=Unit.BYTES,
        meaning="bytes in blocks that the guest marked as reported, on its free lists, before the "
        "host can have discarded them, as `race` saw under `host: {discard: slow}`; absent "
        "otherwise",
        means_when_low=not_as_written("no block was given back early, as the scenario expects"),
        means_when_high=Means(
            Rule.DAMAGE,
            "blocks were back on the guest's free lists before the host had discarded them: the "
            "guest's kernel did not wait, or QEMU acknowledged them too early; what is written to "
            "them in between is lost",
        ),
        compute=_early,
    ),
    Measure(
        name="moves",
        unit=Unit.COUNT,
        meaning="number of migrations and snapshots of the guest, including cancelled ones",
        means_when_low=not_as_written("the guest moved fewer times than the scenario asks for"),
        means_when_high=not_as_written("the guest moved more often than the scenario asks for"),
        compute=lambda history: len(history.moves) or None,
    ),
    Measure(
        name="slowest_move_seconds",
        unit=Unit.SECONDS,
        meaning="time of the longest migration or snapshot of the guest",
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
        meaning="1 if the guest's kernel refused the order that the latest `order` step with `set` "
        "asked for, else 0",
        means_when_low=Means(Rule.CONTROL, "the guest accepted an order that it should refuse"),
        means_when_high=not_as_written("the guest refused the order that the scenario asks for"),
        compute=_order_refused,
    ),
)
