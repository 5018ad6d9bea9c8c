# SPDX-License-Identifier: Apache-2.0
"""Measures of the guest itself: its memory, the blocks it reports, and its boot time."""

from collections.abc import Callable

from harness.kernel.zones import MAX_ORDER
from harness.measure.terms import Measure, Unit, not_as_written, overhead
from harness.record.events import GuestReady
from harness.record.history import History
from harness.units import PAGE_SIZE


def _ready(pick: Callable[[GuestReady], float]) -> Callable[[History], float | None]:
    return lambda history: None if history.ready is None else pick(history.ready)


def _block(history: History) -> int | None:
    if history.ready is None or not 0 <= history.order <= MAX_ORDER:
        return None
    return PAGE_SIZE << history.order


def _batch(history: History) -> int | None:
    block = _block(history)
    return None if block is None or history.ready is None else history.ready.capacity * block


def _pass_seconds(history: History) -> float | None:
    read = [order.pass_seconds for order in history.orders if order.pass_seconds is not None]
    return read[-1] if read else _ready(lambda ready: ready.pass_seconds)(history)


MEASURES = (
    Measure(
        name="memory_bytes",
        unit=Unit.BYTES,
        meaning="the guest's configured memory",
        means_when_low=not_as_written("the guest has less memory than the scenario is written for"),
        means_when_high=not_as_written(
            "the guest has more memory than the scenario is written for"
        ),
        compute=_ready(lambda ready: ready.memory),
    ),
    Measure(
        name="block_bytes",
        unit=Unit.BYTES,
        meaning="size of a block of the guest's reporting order",
        means_when_low=not_as_written(
            "the guest's reporting order is lower than the scenario is written for"
        ),
        means_when_high=not_as_written(
            "the guest's reporting order is higher than the scenario is written for"
        ),
        compute=_block,
    ),
    Measure(
        name="batch_bytes",
        unit=Unit.BYTES,
        meaning="the most that one report carries: 32 blocks of the reporting order",
        means_when_low=not_as_written(
            "the guest's reporting order is lower than the scenario is written for"
        ),
        means_when_high=not_as_written(
            "the guest's reporting order is higher than the scenario is written for"
        ),
        compute=_batch,
    ),
    Measure(
        name="pass_seconds",
        unit=Unit.SECONDS,
        meaning="time between two reporting passes, as read from the guest (2 s before Linux 7.3)",
        means_when_low=not_as_written(
            "the guest reports more often than the scenario is written for"
        ),
        means_when_high=not_as_written(
            "the guest reports less often than the scenario is written for"
        ),
        compute=_pass_seconds,
    ),
    Measure(
        name="boots",
        unit=Unit.COUNT,
        meaning="how many times the guest has booted",
        means_when_low=not_as_written("the guest booted fewer times than the scenario asks for"),
        means_when_high=not_as_written("the guest booted more often than the scenario asks for"),
        compute=lambda history: len(history.boots) or None,
    ),
    Measure(
        name="boot_seconds",
        unit=Unit.SECONDS,
        meaning="time from launch to the guest's first answer over SSH",
        means_when_low=not_as_written("the guest booted faster than the scenario expects"),
        means_when_high=overhead("the guest took too long to boot"),
        compute=_ready(lambda ready: ready.boot_seconds),
    ),
)
