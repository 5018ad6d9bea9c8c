# SPDX-License-Identifier: Apache-2.0
"""When has a guest given back what it will? The rule of the settle step, as a pure state machine.

A wait ends *drained* when nothing that the reporting rule covers remains unreported and nothing is
about to, *idle* when something remains but nothing moved for more than two reporting passes, and
*moving* when its deadline passes first. Which kernel rules it builds on: `harness.kernel.zones`.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from harness.kernel.blocks import NO_ORDER, block_structure, nearly_free
from harness.kernel.pages import GuestState, StateArray
from harness.kernel.zones import (
    MAX_ORDER,
    PASS_SECONDS,
    PASS_SHARE,
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
"""More than this without movement is idle: a pass that was due has come and found nothing."""

MERGE_PASSES = 1.5
"""How long blocks that lack a few pages are given: a CPU's list of free pages holds those, and lets
go of them as pages come and go (free_pcppages_bulk(), mm/page_alloc.c). The next pass reports what
has merged."""

MERGING_BLOCKS = REPORTING_CAPACITY // 4
"""So many of them are worth the time."""


def reportable_remaining(zones: Sequence[Zone], reporting_order: int) -> int:
    """Upper bound in bytes of what can still be reported, from buddyinfo and the watermarks.

    It counts blocks that have been reported already: buddyinfo does not tell them apart.
    """
    order = effective_order(reporting_order)
    return sum(
        (count << block) * PAGE_SIZE
        for zone in zones
        if above_watermark(zone, reporting_order)
        for block, count in enumerate(zone.free_blocks)
        if block >= order
    )


def remaining_from_states(states: StateArray, zones: Sequence[Zone], reporting_order: int) -> int:
    """Exactly what can still be reported, in bytes, from page states as the guest tool sends them.

    Pages in no zone of `zones` count: no watermark excuses them.
    """
    return sum(remaining_by_zone(states, zones, reporting_order).values())


def remaining_by_zone(
    states: StateArray, zones: Sequence[Zone], reporting_order: int
) -> dict[str, int]:
    """The same by zone, `node0/DMA32`; pages in no zone of `zones` under an empty name."""
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
    """Bytes that a few pages keep from being reported, in zones above their watermark."""
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
    """When each zone had given back most of what it had: from looks at what remains there."""

    def __init__(self) -> None:
        self._looks: dict[str, list[tuple[float, int]]] = {}

    def look(self, at: float, remaining: dict[str, int]) -> None:
        """Take in what `remaining_by_zone` saw at `at` seconds."""
        for name, size in remaining.items():
            self._looks.setdefault(name, []).append((at, size))

    def t90(self, least: int) -> dict[str, float]:
        """By zone, when it had fallen by nine tenths of its highest and stayed there; a zone that
        never had `least` bytes to report is absent, and one that never fell so far too."""
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


def predict_drain_seconds(zones: Sequence[Zone], reporting_order: int) -> float:
    """Upper bound of the time an idle guest needs to report everything, by the pass rule.

    page_reporting_cycle() hands over at least DIV_ROUND_UP(nr_free, 32 * 16) full calls of 32
    blocks from each free list in a pass, where nr_free counts all blocks of that order, reported
    or not. All lists are worked on in each pass, so the longest decides. buddyinfo adds up the
    migratetypes of an order; the bound takes them for one list. One pass more goes to the delay
    before the first, and one to blocks that merge while being handed back and are reported again.
    The time the host needs to discard comes on top. 0.0 where nothing can be reported.
    """
    order = effective_order(reporting_order)
    passes = 0
    for zone in zones:
        if not above_watermark(zone, reporting_order):
            continue
        for count in zone.free_blocks[order:]:
            calls = -(-count // (REPORTING_CAPACITY * PASS_SHARE))
            passes = max(passes, -(-count // (REPORTING_CAPACITY * calls)) if calls else 0)
    return (passes + 2) * PASS_SECONDS if passes else 0.0


class _GuestClock:
    """How the guest's clock goes against the host's, by looks at both."""

    def __init__(self) -> None:
        self._host: list[float] = []
        self._guest: list[float] = []

    def look(self, host: float, guest: float) -> None:
        """Take in both clocks at one moment."""
        self._host.append(host)
        self._guest.append(guest)

    def passed_since(self, moment: float) -> float:
        """Guest seconds from a moment of the host's clock to the last look; without bound if there
        was none. Before the first look the clocks are taken to have gone alike."""
        if not self._host:
            return math.inf
        before_first = max(0.0, self._host[0] - moment)
        at_moment = float(np.interp(moment, self._host, self._guest))
        return self._guest[-1] - at_moment + before_first

    @property
    def rate(self) -> float | None:
        """Guest seconds for each second of the host, over all looks; None with fewer than two."""
        if len(self._host) < 2 or self._host[-1] <= self._host[0]:
            return None
        return (self._guest[-1] - self._guest[0]) / (self._host[-1] - self._host[0])


class SettleTracker:
    """Feed it observations in order; it says when the wait is over and how it went.

    Times are seconds since the wait began, which must be after the freeing it waits for: an
    observation made earlier is refused, because "nothing remains" seen before a free says nothing.
    Movement is: discards grew; or the held bytes fell by at least a block below their last peak;
    or the remaining bytes fell to a new low.

    Passes come by the guest's clock, and that may stand still while the host's goes on (QEMU was
    stopped, or the guest got no processor): nothing is idle before both say so.
    """

    def __init__(
        self, block_bytes: int, leave: int = 0, pass_seconds: float = PASS_SECONDS
    ) -> None:
        """`block_bytes`: a block of the reporting order; less than that is noise in `held`.

        `leave`: bytes that may remain when the wait is over; `pass_seconds`: between two passes.
        """
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
        """When something last moved, seconds; 0.0 if nothing has."""
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
        """Seconds until half of what came back so far had; None if less than a block did."""
        return self._seconds_until(0.5)

    @property
    def t90(self) -> float | None:
        """Seconds until nine tenths of what came back so far had; None if less than a block did."""
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
        """Take in what was seen at `at`; the outcome, or None while the wait should go on.

        `held`: HostMapping.held; `discarded`: DiscardTotals.bytes; `remaining`: bytes that can
        still be reported, exact or an upper bound; `merging`: bytes that a few pages keep from
        that, seen in the same look; `guest_at`: the guest's monotonic clock then, seconds. None:
        not looked at this time. Raises `ValueError` for a time before the wait or before the
        observation before.
        """
        if at < self._now:
            raise ValueError(
                f"an observation of {at:.3f} s came after {self._now:.3f} s; "
                "a wait takes only what was seen after it began, in order"
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
        quiet = min(at - self._last_moved, self._guest_clock.passed_since(self._last_moved))
        if self._remaining is not None and self._remaining <= self._leave:
            if self._merging <= MERGING_BLOCKS * self._block or quiet > MERGE_PASSES * self._pass:
                return SettleOutcome.DRAINED
            return None
        return SettleOutcome.IDLE if quiet > IDLE_PASSES * self._pass else None

    @property
    def clock_rate(self) -> float | None:
        """Seconds of the guest's clock for each of the host's during the wait; None if unknown."""
        return self._guest_clock.rate

    def give_up(self) -> SettleOutcome:
        """The outcome when the deadline passes first: neither drained nor seen to be idle."""
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
        """Seconds until `share` of the held bytes' fall had happened, between samples linear."""
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
        raise AssertionError("the last sample lies at or below every share of the fall")
