# SPDX-License-Identifier: Apache-2.0
"""The settle rule: drained, idle or still moving, and how long it took."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builders import BLOCK, Guest, zone

from harness.kernel.pages import GuestState, HostState, StateArray
from harness.kernel.settling import (
    IDLE_PASSES,
    MERGE_PASSES,
    MERGING_BLOCKS,
    SettleOutcome,
    SettleTracker,
    merging,
    remaining_by_zone,
)
from harness.kernel.zones import PASS_SECONDS, Zone, block_size
from harness.units import MIB, PAGE_SIZE

BLOCK_BYTES = 2 * MIB
IDLE_SECONDS = IDLE_PASSES * PASS_SECONDS
MERGE_SECONDS = MERGE_PASSES * PASS_SECONDS


@pytest.fixture
def tracker() -> SettleTracker:
    return SettleTracker(block_bytes=BLOCK_BYTES)


class TestOutcome:
    def test_nothing_remains(self, tracker: SettleTracker) -> None:
        assert tracker.observe(0.1, held=100 * MIB, remaining=8 * MIB) is None
        assert tracker.observe(2.0, held=92 * MIB, remaining=0) is SettleOutcome.DRAINED
        assert tracker.last_moved == 2.0

    def test_nothing_remained_from_the_start(self, tracker: SettleTracker) -> None:
        assert tracker.observe(0.1, held=100 * MIB, remaining=0) is SettleOutcome.DRAINED
        assert (tracker.last_moved, tracker.t50, tracker.t90) == (0.0, None, None)

    def test_what_was_seen_before_the_wait_does_not_count(self, tracker: SettleTracker) -> None:
        with pytest.raises(ValueError, match="after it began"):
            tracker.observe(-0.1, remaining=0)

    def test_observations_come_in_order(self, tracker: SettleTracker) -> None:
        tracker.observe(1.0)
        with pytest.raises(ValueError, match="in order"):
            tracker.observe(0.9)

    def test_idle_takes_more_than_two_passes_without_movement(self, tracker: SettleTracker) -> None:
        assert tracker.observe(0.0, held=100 * MIB, discarded=0, remaining=8 * MIB) is None
        assert tracker.observe(IDLE_SECONDS, held=100 * MIB, discarded=0) is None
        assert tracker.observe(4.1, held=100 * MIB, discarded=0) is SettleOutcome.IDLE

    def test_a_guest_whose_clock_stands_still_is_not_idle(self, tracker: SettleTracker) -> None:
        """After QEMU was stopped for 25 s a guest on the HPET sees no time pass for 17 s more."""
        tracker.observe(0.5, held=100 * MIB, discarded=0, remaining=8 * MIB, guest_at=100.0)
        for at in range(1, 17):
            assert tracker.observe(float(at), remaining=8 * MIB, guest_at=100.1) is None
        assert tracker.clock_rate == pytest.approx(0.1 / 15.5)
        assert tracker.observe(18.0, remaining=8 * MIB, guest_at=102.0) is None
        assert tracker.observe(20.5, remaining=8 * MIB, guest_at=104.6) is SettleOutcome.IDLE

    def test_both_clocks_must_see_two_passes(self, tracker: SettleTracker) -> None:
        """A guest that catches up on lost time runs ahead of the host's clock."""
        tracker.observe(0.5, held=100 * MIB, remaining=8 * MIB, guest_at=100.0)
        assert tracker.observe(2.0, remaining=8 * MIB, guest_at=130.0) is None
        assert tracker.observe(4.1, remaining=8 * MIB, guest_at=132.1) is SettleOutcome.IDLE

    def test_what_the_guests_clock_did_before_the_last_movement_does_not_count(
        self, tracker: SettleTracker
    ) -> None:
        tracker.observe(0.0, held=100 * MIB, discarded=0, remaining=64 * MIB, guest_at=10.0)
        tracker.observe(6.0, held=40 * MIB, discarded=60 * MIB, remaining=8 * MIB, guest_at=16.0)
        assert tracker.observe(10.5, remaining=8 * MIB, guest_at=18.0) is None
        assert tracker.observe(13.0, remaining=8 * MIB, guest_at=20.5) is SettleOutcome.IDLE

    def test_idle_goes_by_the_guests_own_time_between_passes(self) -> None:
        slow = SettleTracker(block_bytes=BLOCK_BYTES, pass_seconds=10.0)
        assert slow.observe(0.0, held=100 * MIB, remaining=8 * MIB) is None
        assert slow.observe(19.9) is None
        assert slow.observe(20.1) is SettleOutcome.IDLE

    def test_blocks_that_lack_a_page_are_given_time_to_merge(self, tracker: SettleTracker) -> None:
        assert tracker.observe(1.0, held=100 * MIB, remaining=0, merging=80 * MIB) is None
        assert tracker.observe(MERGE_SECONDS, held=100 * MIB) is None, "no look: as before"
        assert tracker.observe(3.5, held=100 * MIB, remaining=80 * MIB) is None, "now they have"
        assert tracker.observe(4.5, held=20 * MIB, remaining=0) is SettleOutcome.DRAINED

    def test_those_that_do_not_merge_are_not_waited_for(self, tracker: SettleTracker) -> None:
        tracker.observe(1.0, held=100 * MIB, remaining=0, merging=80 * MIB)
        late = MERGE_SECONDS + 0.1
        drained = tracker.observe(late, held=100 * MIB, remaining=0, merging=80 * MIB)
        assert drained is SettleOutcome.DRAINED

    def test_a_few_of_them_are_not_waited_for(self, tracker: SettleTracker) -> None:
        few = MERGING_BLOCKS * BLOCK_BYTES
        drained = tracker.observe(1.0, held=100 * MIB, remaining=0, merging=few)
        assert drained is SettleOutcome.DRAINED

    def test_not_knowing_what_remains_is_never_drained(self, tracker: SettleTracker) -> None:
        tracker.observe(0.0, held=100 * MIB)
        assert tracker.observe(4.1, held=100 * MIB) is SettleOutcome.IDLE
        assert tracker.remaining is None

    def test_a_deadline(self, tracker: SettleTracker) -> None:
        tracker.observe(0.0, held=100 * MIB, remaining=8 * MIB)
        assert tracker.give_up() is SettleOutcome.MOVING


@pytest.mark.parametrize(
    ("what", "first", "then", "moves"),
    [
        ("discards grow", {"discarded": 0}, {"discarded": 4096}, True),
        ("discards stay", {"discarded": 9}, {"discarded": 9}, False),
        ("held falls by a block", {"held": 100 * MIB}, {"held": 98 * MIB}, True),
        ("held falls by less", {"held": 100 * MIB}, {"held": 98 * MIB + 4096}, False),
        ("held rises", {"held": 100 * MIB}, {"held": 120 * MIB}, False),
        ("remaining shrinks", {"remaining": 9 * MIB}, {"remaining": 8 * MIB}, True),
        ("remaining grows", {"remaining": 8 * MIB}, {"remaining": 9 * MIB}, False),
        ("nothing is looked at", {}, {}, False),
        ("the first look is no movement", {}, {"held": 1, "discarded": 1, "remaining": 1}, False),
    ],
)
def test_what_movement_is(
    tracker: SettleTracker, what: str, first: dict[str, int], then: dict[str, int], moves: bool
) -> None:
    tracker.observe(0.0, **first)
    tracker.observe(3.0, **then)
    assert tracker.last_moved == (3.0 if moves else 0.0), what
    outcome = tracker.observe(5.0)
    assert outcome is (None if moves else SettleOutcome.IDLE), what


def test_a_slow_trickle_adds_up_to_movement(tracker: SettleTracker) -> None:
    for tick in range(20):
        tracker.observe(tick / 2, held=100 * MIB - tick * MIB // 2)
    assert tracker.last_moved == 8.0


def test_remaining_that_goes_up_and_down_is_not_movement_for_ever(tracker: SettleTracker) -> None:
    outcome = None
    for tick in range(60):
        outcome = tracker.observe(tick / 10, remaining=(9 if tick % 2 else 8) * MIB)
        if outcome:
            break
    assert outcome is SettleOutcome.IDLE


def test_times_are_interpolated_between_samples(tracker: SettleTracker) -> None:
    for at, held in ((0.0, 200), (2.0, 200), (4.0, 100), (6.0, 100), (8.0, 0)):
        tracker.observe(at, held=held * MIB, remaining=1)
    assert tracker.t50 == 4.0
    assert tracker.t90 == pytest.approx(7.6)
    assert tracker.held == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 400)), min_size=1, max_size=30))
def test_times_lie_within_the_wait_and_in_order(steps: list[tuple[float, int]]) -> None:
    tracker, at = SettleTracker(BLOCK_BYTES), 0.0
    for step, held in steps:
        at += step
        tracker.observe(at, held=held * MIB, remaining=1)
    assert 0 <= tracker.last_moved <= at
    assert (tracker.t50 is None) == (tracker.t90 is None)
    assert (tracker.t50 is None) == ((steps[0][1] - steps[-1][1]) * MIB < BLOCK_BYTES)
    if tracker.t50 is not None and tracker.t90 is not None:
        assert steps[0][0] <= tracker.t50 <= tracker.t90 <= at


def remaining(states: StateArray, zones: Sequence[Zone], order: int) -> int:
    return sum(remaining_by_zone(states, zones, order).values())


class TestRemaining:
    def test_pages_tell_exactly(self) -> None:
        guest = (
            Guest()
            .blocks(0, 3, GuestState.FREE, HostState.RESIDENT)
            .blocks(4, 2, GuestState.REPORTED, HostState.ABSENT)
            .fragments(6, 1)
        )
        assert remaining(guest.states, guest.zones, 9) == 6 * MIB
        low = (zone(free=100),)
        assert remaining(guest.states, low, 9) == 0
        assert remaining(guest.states, guest.zones, 0xFFFFFFFF) == 0, "no order, nothing to report"
        assert block_size(0xFFFFFFFF) == 4 * MIB

    def test_blocks_that_lack_a_page_may_merge(self) -> None:
        guest = Guest().blocks(10, 3, GuestState.FREE, HostState.RESIDENT)
        guest.states[[10 * BLOCK + 7, 11 * BLOCK]] = GuestState.USED
        guest.states[12 * BLOCK : 12 * BLOCK + 9] = GuestState.USED
        lacking_one = 2 * BLOCK_BYTES - 2 * PAGE_SIZE
        assert merging(guest.states, [zone()], 9) == lacking_one
        assert remaining(guest.states, [zone()], 9) == 0
        assert merging(guest.states, [zone(free=100)], 9) == 0, "under its watermark"
        assert merging(guest.states, [zone()], -1) == 0, "nothing is ever reported"

    def test_free_pages_in_no_zone_remain(self) -> None:
        assert remaining(np.full(BLOCK, GuestState.FREE, np.uint8), (), 9) == 2 * MIB


class TestVirtualClock:
    """The guest's clock runs at any rate, so that only its own seconds tell of passes."""

    @pytest.fixture
    def tracker(self) -> SettleTracker:
        return SettleTracker(block_bytes=BLOCK_BYTES, virtual=True)

    def test_idle_is_what_does_not_move_for_two_passes_of_the_guest(
        self, tracker: SettleTracker
    ) -> None:
        assert tracker.observe(0.1, remaining=8 * MIB, guest_at=10.0) is None
        assert tracker.observe(60.0, remaining=8 * MIB, guest_at=13.9) is None
        assert tracker.observe(60.1, remaining=8 * MIB, guest_at=14.1) is SettleOutcome.IDLE

    def test_what_moved_between_two_looks_may_have_moved_right_before_the_second(
        self, tracker: SettleTracker
    ) -> None:
        assert tracker.observe(0.1, discarded=0, remaining=8 * MIB, guest_at=10.0) is None
        assert tracker.observe(0.5, discarded=MIB, remaining=6 * MIB, guest_at=900.0) is None
        assert tracker.observe(0.6, discarded=MIB, remaining=6 * MIB, guest_at=903.0) is None
        assert tracker.guest_seconds == 893.0

    def test_drained_is_no_moment_in_a_pass(self, tracker: SettleTracker) -> None:
        """The blocks of a pass are with the host: none of them is free."""
        assert tracker.observe(0.1, discarded=0, remaining=8 * MIB, guest_at=10.0) is None
        assert tracker.observe(0.2, discarded=MIB, remaining=0, guest_at=12.0) is None
        assert tracker.observe(0.3, discarded=MIB, remaining=0, guest_at=12.3) is None
        assert tracker.observe(0.4, discarded=MIB, remaining=0, guest_at=12.5) is (
            SettleOutcome.DRAINED
        )
