# SPDX-License-Identifier: Apache-2.0
"""The rule of the settle step: when the guest has returned what it will, as a pure state machine.

A wait ends *drained* when nothing that can be reported remains and no nearly free block is about to
merge, *idle* when something remains but nothing moved for more than two reporting passes, and
*moving* when its deadline passes first. The kernel's rules are in `harness.kernel.zones`.
"""

import bisect
import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from harness.kernel.blocks import NO_ORDER, block_structure, nearly_free
from harness.kernel.pages import GuestState, StateArray
from harness.kernel.zones import (
    MAX_ORDER,
    PASS_SECONDS,
    REPORTING_CAPACITY,
    Zone,
    above_watermark,
    effective_order,
    zone_cuts,
    zone_index,
    zone_name,
)
from harness.units import PAGE_SIZE


class SettleOutcome(StrEnum):
    DRAINED = "drained"
    """Nothing that can be reported remains."""
    IDLE = "idle"
    """Something remains, but nothing moved for more than two reporting passes."""
    MOVING = "moving"
    """The deadline passed while memory was still coming back."""


IDLE_PASSES = 2.0
"""A wait is idle after more than this many passes without movement: a full pass found nothing."""

MERGE_PASSES = 1.5
"""How many passes nearly free blocks get to merge: the pages they lack lie on a per-CPU list, which
releases them as other pages are freed (free_pcppages_bulk(), mm/page_alloc.c). The next pass
reports the merged blocks."""

BETWEEN_PASSES_SECONDS = 0.4
"""Under a virtual clock, guest seconds without movement after which no pass is under way: the
blocks of one are with the host, and none of them is free."""

MERGING_BLOCKS = REPORTING_CAPACITY // 4
"""The wait goes on for nearly free blocks only if more than this many could merge."""


def remaining_by_zone(
    states: StateArray, zones: Sequence[Zone], reporting_order: int
) -> dict[str, int]:
    """Count the bytes that can still be reported by zone, key `node0/DMA32`.

    `states`: GuestState by PFN, REPORTED on heads only. Pages in none of `zones` stand under an
    empty key: no watermark excuses them.
    """
    blocks = block_structure(states, zone_cuts(zones))
    watched = np.array([True] + [above_watermark(zone, reporting_order) for zone in zones])
    index = zone_index(zones, len(states))
    remaining = (
        (blocks.states == GuestState.FREE)
        & (blocks.orders >= effective_order(reporting_order))
        & (blocks.orders != NO_ORDER)
        & watched[index]
    )
    counts = np.bincount(index[remaining], minlength=len(zones) + 1)
    names = ["", *(zone_name(zone) for zone in zones)]
    return {name: int(count) * PAGE_SIZE for name, count in zip(names, counts, strict=True)}


def merging(states: StateArray, zones: Sequence[Zone], reporting_order: int) -> int:
    """Count the free bytes in nearly free blocks of the order, in zones above their watermark.

    `states`: GuestState by PFN, REPORTED on heads only. A few pages in use keep these bytes from
    being reported.
    """
    order = effective_order(reporting_order)
    if order > MAX_ORDER:
        return 0
    blocks = block_structure(states, zone_cuts(zones))
    watched = np.array([True] + [above_watermark(zone, reporting_order) for zone in zones])
    free = (blocks.states == GuestState.FREE) & (blocks.orders < order)
    used = np.isin(blocks.states, (GuestState.USED, GuestState.HELD, GuestState.CONTENT))
    in_watched = watched[zone_index(zones, len(states))]
    pages, _lack = nearly_free(free & in_watched, used, order)
    return pages * PAGE_SIZE


class ZoneDrains:
    """Finds when each zone had reported most of its memory, from repeated looks at the rest."""

    def __init__(self) -> None:
        self._looks: dict[str, list[tuple[float, int]]] = {}

    def look(self, at: float, remaining: dict[str, int]) -> None:
        """Take in what `remaining_by_zone` saw at `at` seconds."""
        for name, size in remaining.items():
            self._looks.setdefault(name, []).append((at, size))

    def t90(self, least: int) -> dict[str, float]:
        """By zone: the seconds at which what remains had fallen by 90 % of its peak for good.

        Absent are zones that never had `least` bytes to report, and zones that never fell so far.
        """
        found = {}
        for name, looks in self._looks.items():
            highest = max(size for _at, size in looks)
            if not name or highest < least:
                continue
            low = max(highest // 10, least)
            below = None
            for at, size in looks:
                if size > low:
                    below = None
                elif below is None:
                    below = at
            if below is not None:
                found[name] = below
        return found


class _GuestClock:
    """Relates the guest's clock to the host's, from pairs of readings."""

    def __init__(self) -> None:
        self._host: list[float] = []
        self._guest: list[float] = []

    def look(self, host: float, guest: float) -> None:
        """Take in both clocks at one moment, monotonic seconds."""
        self._host.append(host)
        self._guest.append(guest)

    def passed_for_certain(self, moment: float) -> float:
        """Return the guest seconds from the first look at or after a moment to the last look, where
        nothing tells how fast the guest's clock ran between two looks; 0.0 without such a look.
        """
        first = bisect.bisect_left(self._host, moment)
        return self._guest[-1] - self._guest[first] if first < len(self._host) else 0.0

    def passed_since(self, moment: float) -> float:
        """Return the guest seconds from a moment of the host's clock to the last look.

        Infinite if there was no look. Before the first look, both clocks are assumed to run at the
        same rate.
        """
        if not self._host:
            return math.inf
        before_first = max(0.0, self._host[0] - moment)
        at_moment = float(np.interp(moment, self._host, self._guest))
        return self._guest[-1] - at_moment + before_first

    @property
    def rate(self) -> float | None:
        """Guest seconds per host second over all looks; None with fewer than two looks."""
        if len(self._host) < 2 or self._host[-1] <= self._host[0]:
            return None
        return (self._guest[-1] - self._guest[0]) / (self._host[-1] - self._host[0])


class SettleTracker:
    """Takes observations in order and tells when the wait is over and how it ended.

    Times are seconds since the wait began. The wait must begin after the freeing it waits for, so
    an earlier observation is refused: "nothing remains" before a free proves nothing. Movement
    means that the discards grew, that the held bytes fell by at least a block below their last
    peak, or that the remaining bytes reached a new low.

    Passes follow the guest's clock, which may stand still while the host's runs on (QEMU was
    stopped, or the guest got no CPU time). The wait is idle only when both clocks say so; with a
    virtual clock, which may run any number of times faster, when the guest's does.
    """

    def __init__(
        self,
        block_bytes: int,
        leave: int = 0,
        pass_seconds: float = PASS_SECONDS,
        *,
        virtual: bool = False,
    ) -> None:
        """Start a wait.

        `block_bytes`: size of a block of the reporting order; a smaller change of `held` is noise;
        `leave`: bytes that may remain when the wait is over; `pass_seconds`: time between passes;
        `virtual`: whether the guest has a virtual clock.
        """
        self._virtual = virtual
        self._block = block_bytes
        self._leave = leave
        self._pass = pass_seconds
        self._guest_clock = _GuestClock()
        self._last_moved = 0.0
        self._discarded: int | None = None
        self._peak: int | None = None
        self._lowest_remaining: int | None = None
        self._remaining: int | None = None
        self._merging = 0
        self._held: list[tuple[float, int]] = []
        self._now = 0.0

    @property
    def last_moved(self) -> float:
        """When something last moved, in seconds; 0.0 if nothing has."""
        return self._last_moved

    @property
    def remaining(self) -> int | None:
        """Bytes that can still be reported, as last observed."""
        return self._remaining

    @property
    def held(self) -> int | None:
        """HostMapping.held in bytes, as last observed."""
        return self._held[-1][1] if self._held else None

    @property
    def t50(self) -> float | None:
        """Seconds until half of the fall of `held`; None if it fell by less than a block."""
        return self._seconds_until(0.5)

    @property
    def t90(self) -> float | None:
        """Seconds until 90 % of the fall of `held`; None if it fell by less than a block."""
        return self._seconds_until(0.9)

    def observe(
        self,
        at: float,
        *,
        held: int | None = None,
        discarded: int | None = None,
        remaining: int | None = None,
        merging: int = 0,
        guest_at: float | None = None,
    ) -> SettleOutcome | None:
        """Take in what was seen at `at`; return the outcome, or None while the wait goes on.

        `held`: HostMapping.held; `discarded`: DiscardTotals.bytes; `remaining`: bytes that can
        still be reported, exact or an upper bound; `merging`: bytes in nearly free blocks, from the
        same look as `remaining`; `guest_at`: the guest's monotonic clock at that time, seconds.
        None means not looked at this time. Raises `ValueError` if `at` lies before the wait began
        or before the previous observation.
        """
        if at < self._now:
            raise ValueError(
                f"the observation at {at:.3f} s came after that at {self._now:.3f} s; "
                "a wait takes only observations made after it began, in order"
            )
        self._now = at
        moved = [
            self._discards_grew(discarded),
            self._held_fell(at, held),
            self._remaining_fell(remaining),
        ]
        if any(moved):
            self._last_moved = at
        if guest_at is not None:
            self._guest_clock.look(at, guest_at)
        if remaining is not None:
            self._merging = merging
        if self._virtual:
            quiet = self._guest_clock.passed_for_certain(self._last_moved)
        else:
            quiet = min(at - self._last_moved, self._guest_clock.passed_since(self._last_moved))
        if self._virtual and quiet < BETWEEN_PASSES_SECONDS:
            return None
        if self._remaining is not None and self._remaining <= self._leave:
            if self._merging <= MERGING_BLOCKS * self._block or quiet > MERGE_PASSES * self._pass:
                return SettleOutcome.DRAINED
            return None
        return SettleOutcome.IDLE if quiet > IDLE_PASSES * self._pass else None

    @property
    def guest_seconds(self) -> float:
        """Guest seconds from the first look at its clock to the last."""
        return self._guest_clock.passed_for_certain(0.0)

    @property
    def clock_rate(self) -> float | None:
        """Guest seconds per host second during the wait; None if unknown."""
        return self._guest_clock.rate

    def give_up(self) -> SettleOutcome:
        """Return the outcome if the deadline passes first: neither drained nor idle."""
        return SettleOutcome.MOVING

    def _discards_grew(self, discarded: int | None) -> bool:
        if discarded is None:
            return False
        grew = self._discarded is not None and discarded > self._discarded
        self._discarded = discarded
        return grew

    def _held_fell(self, at: float, held: int | None) -> bool:
        if held is None:
            return False
        self._held.append((at, held))
        fell = self._peak is not None and self._peak - held >= self._block
        self._peak = held if fell or self._peak is None else max(self._peak, held)
        return fell

    def _remaining_fell(self, remaining: int | None) -> bool:
        if remaining is None:
            return False
        self._remaining = remaining
        fell = self._lowest_remaining is not None and remaining < self._lowest_remaining
        if fell or self._lowest_remaining is None:
            self._lowest_remaining = remaining
        return fell

    def _seconds_until(self, share: float) -> float | None:
        """Find when `held` had fallen by `share` of its fall, interpolating between samples."""
        if not self._held:
            return None
        first, last = self._held[0][1], self._held[-1][1]
        if first - last < self._block:
            return None
        level = first - share * (first - last)
        before_at, before = self._held[0]
        for at, held in self._held[1:]:
            if held <= level:
                return before_at + (before - level) / (before - held) * (at - before_at)
            before_at, before = at, held
        raise AssertionError("the last sample is at or below the level of every share")
