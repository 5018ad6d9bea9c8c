# SPDX-License-Identifier: Apache-2.0
"""Follow every discard until the guest faults the memory back in."""

import time
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from harness.act.guest import Guest
from harness.kernel.pages import HostState
from harness.kernel.reuse import REUSE_SECONDS, Discarded, reuse_curve
from harness.record.events import Measured
from harness.scenario.fields import MeasureName, Seconds
from harness.scenario.steps import Verb
from harness.units import PAGE_SIZE

LOOK_SECONDS = 0.25
"""Interval of looks. Memory faulted in stays resident until the next pass, 2 s later, so none is
missed, and the shortest horizon of 1 s is measured to a quarter."""


class Watch(Verb):
    """Follows every discard until the guest faults the memory back in. `NAME_discarded_bytes` is
    how much was discarded; `NAME_reused_1s_fraction`, `NAME_reused_5s_fraction` and
    `NAME_reused_30s_fraction` are the fractions of it that were in use again within that time.
    """

    verb: ClassVar[str] = "watch"
    real_clock: ClassVar[str] = "it times what the guest faults back in by the host's clock"
    name: MeasureName
    """NAME in the names of its measures."""
    duration: Seconds
    """How long it follows discards. A discard counts only for the horizons that have passed since:
    one followed for less than 30 s does not count for `NAME_reused_30s_fraction`."""

    def expected_seconds(self, _memory: int) -> float:
        """Return the duration."""
        return self.duration

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the bytes, and of a fraction for each horizon."""
        what = ("discarded_bytes", *(f"reused_{seconds}s_fraction" for seconds in REUSE_SECONDS))
        return tuple(f"{self.name}_{each}" for each in what)

    def perform(self, guest: Guest) -> None:
        """Follow the discards and record the measures. Raises what the instruments raise."""
        guest.phase("watch", f"{self.name}, for {self.duration:g} s")
        found = _follow(guest, self.duration)
        size = sum(discard.bytes for discard in found)
        record = guest.record
        record.add(Measured(record.now(), f"{self.name}_discarded_bytes", size))
        for seconds, share in reuse_curve(found, time.monotonic()).items():
            record.add(Measured(record.now(), f"{self.name}_reused_{seconds}s_fraction", share))


def _follow(guest: Guest, duration: float) -> list[Discarded]:
    """Return the discards of `duration` seconds, with the time at which each was in use again."""
    instruments = guest.instruments
    start = time.monotonic()
    # For each page the time of its discard, until it is faulted back in; NaN otherwise.
    since = np.full(instruments.layout.pfn_end, np.nan)
    found: list[Discarded] = []
    instruments.discards.follow()
    while (elapsed := time.monotonic() - start) < duration:
        guest.vm.sleep_alive(min(LOOK_SECONDS, duration - elapsed))
        instruments.discards.read()
        for at, first, last in instruments.discards.followed():
            # A page discarded twice without use in between counts once.
            pages = since[first:last]
            pages[np.isnan(pages)] = at
        at = time.monotonic()
        resident = instruments.residency.read() == HostState.RESIDENT
        reused = resident & ~np.isnan(since)
        found += _grouped(since[reused], at)
        since[reused] = np.nan
    instruments.discards.unfollow()
    return found + _grouped(since[~np.isnan(since)], None)


def _grouped(discarded_at: npt.NDArray[np.float64], reused_at: float | None) -> list[Discarded]:
    times, counts = np.unique(discarded_at, return_counts=True)
    return [
        Discarded(float(at), int(count) * PAGE_SIZE, reused_at)
        for at, count in zip(times, counts, strict=True)
    ]
