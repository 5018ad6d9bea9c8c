# SPDX-License-Identifier: Apache-2.0
"""Follow every discard until the guest uses the memory again."""

import time

import numpy as np
import numpy.typing as npt

from harness.act.session import GuestSession
from harness.kernel.pages import HostState
from harness.kernel.reuse import Discarded, reuse_curve
from harness.record.events import Measured
from harness.scenario.steps import WatchStep
from harness.units import PAGE_SIZE

LOOK_SECONDS = 0.25
"""Memory in use again stays with the host until the next pass, 2 s later: four looks a second miss
none of it, and tell the shortest horizon to a quarter."""


def watch(session: GuestSession, step: WatchStep) -> None:
    """Record the reuse curve. Raises what the instruments raise."""
    session.phase("watch", f"{step.name}, for {step.duration:g} s")
    start = time.monotonic()
    # Per page: when it was discarded, as long as the host has not had to give it back.
    since = np.full(session.layout.pfn_end, np.nan)
    found: list[Discarded] = []
    session.discards.follow()
    while (elapsed := time.monotonic() - start) < step.duration:
        session.vm.sleep_alive(min(LOOK_SECONDS, step.duration - elapsed))
        session.discards.read()
        for at, first, last in session.discards.followed():
            # A page discarded twice without use in between was given back once.
            pages = since[first:last]
            pages[np.isnan(pages)] = at
        at = time.monotonic()
        resident = session.residency.read() == HostState.RESIDENT
        reused = resident & ~np.isnan(since)
        found += _grouped(since[reused], at)
        since[reused] = np.nan
    session.discards.unfollow()
    found += _grouped(since[~np.isnan(since)], None)
    size = sum(discard.bytes for discard in found)
    record = session.record
    record.add(Measured(record.now(), f"{step.name}_discarded_bytes", size))
    for seconds, share in reuse_curve(found, time.monotonic()).items():
        record.add(Measured(record.now(), f"{step.name}_reused_{seconds}s_fraction", share))


def _grouped(discarded_at: npt.NDArray[np.float64], reused_at: float | None) -> list[Discarded]:
    times, counts = np.unique(discarded_at, return_counts=True)
    return [
        Discarded(float(at), int(count) * PAGE_SIZE, reused_at)
        for at, count in zip(times, counts, strict=True)
    ]
