# SPDX-License-Identifier: Apache-2.0
"""Measures of what reporting costs and saves over time: CPU of QEMU's threads, and footprint."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.measure.terms import Means, Measure, Rule, Unit, overhead
from harness.record.events import Sample
from harness.record.history import History
from harness.units import GIB

LEAST_SECONDS = 1.0
"""Shorter waits are a few samples long, which says nothing of a share."""

_SAVING = overhead("QEMU's threads take less CPU time than the scenario expects")
_DEAR = overhead("reporting costs too much CPU time of QEMU's threads")


@dataclass(frozen=True)
class _Window:
    """The first and the last sample of the latest settle in which memory still came back."""

    first: Sample
    last: Sample

    @property
    def seconds(self) -> float:
        return self.last.t - self.first.t


def _reporting(history: History) -> _Window | None:
    """The part of the latest settle from its start to the last change, where both were sampled."""
    if not history.waits:
        return None
    waited = history.waits[-1]
    if waited.began is None:
        return None
    until = waited.began + waited.settled.seconds
    told = [s for s in waited.samples if s.cpu_main is not None and s.t <= until]
    window = _Window(told[0], told[-1]) if told else None
    return window if window is not None and window.seconds >= LEAST_SECONDS else None


def _share(of: Callable[[Sample], float | None]) -> Callable[[History], float | None]:
    def compute(history: History) -> float | None:
        window = _reporting(history)
        if window is None:
            return None
        first, last = of(window.first), of(window.last)
        if first is None or last is None:
            return None
        return (last - first) / window.seconds

    return compute


def _total(of: Callable[[Sample], float | None]) -> Callable[[History], float | None]:
    def compute(history: History) -> float | None:
        ends = history.footprint.first, history.footprint.last
        if ends[0] is None or ends[1] is None or not history.footprint.seconds:
            return None
        first, last = of(ends[0]), of(ends[1])
        return None if first is None or last is None else last - first

    return compute


def _footprint(history: History) -> float | None:
    seconds = history.footprint.seconds
    return history.footprint.byte_seconds / GIB / 60 if seconds else None


def _mean_held(history: History) -> float | None:
    seconds = history.footprint.seconds
    return float(round(history.footprint.byte_seconds / seconds)) if seconds else None


_WHILE = "per second of the latest settle, from its start to the last change in memory: 1 is a core"

MEASURES = (
    Measure(
        name="qemu_main_cpu_fraction",
        unit=Unit.FRACTION,
        meaning=f"CPU time of QEMU's main thread, which discards, {_WHILE}",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_share(lambda sample: sample.cpu_main),
    ),
    Measure(
        name="qemu_vcpus_cpu_fraction",
        unit=Unit.FRACTION,
        meaning=f"CPU time of QEMU's vCPU threads together, {_WHILE}",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_share(lambda sample: sample.cpu_vcpus),
    ),
    Measure(
        name="qemu_others_cpu_fraction",
        unit=Unit.FRACTION,
        meaning=f"CPU time of QEMU's other threads together, {_WHILE}",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_share(lambda sample: sample.cpu_others),
    ),
    Measure(
        name="qemu_main_cpu_seconds",
        unit=Unit.SECONDS,
        meaning="CPU time of QEMU's main thread, which discards, over the steps",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_total(lambda sample: sample.cpu_main),
    ),
    Measure(
        name="qemu_vcpus_cpu_seconds",
        unit=Unit.SECONDS,
        meaning="CPU time of QEMU's vCPU threads together, over the steps",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_total(lambda sample: sample.cpu_vcpus),
    ),
    Measure(
        name="qemu_others_cpu_seconds",
        unit=Unit.SECONDS,
        meaning="CPU time of QEMU's other threads together, over the steps",
        means_when_low=_SAVING,
        means_when_high=_DEAR,
        compute=_total(lambda sample: sample.cpu_others),
    ),
    Measure(
        name="footprint_gib_minutes",
        unit=Unit.GIB_MINUTES,
        meaning="what the host held of guest RAM, summed over the time of the steps",
        means_when_low=Means(Rule.CAME_BACK_SOON),
        means_when_high=Means(Rule.SLOW),
        compute=_footprint,
    ),
    Measure(
        name="held_mean_bytes",
        unit=Unit.BYTES,
        meaning="what the host held of guest RAM, mean over the time of the steps",
        means_when_low=Means(Rule.CAME_BACK_SOON),
        means_when_high=Means(Rule.SLOW),
        compute=_mean_held,
    ),
)
