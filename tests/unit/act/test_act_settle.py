# SPDX-License-Identifier: Apache-2.0
"""`settle`: when a guest has given back what it will."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from fake_guest import FakeGuest
from guest_words import counters, page_rounds
from run_builders import BLOCK, BLOCKS, mapping, zone

from harness.act.verbs.settle import Drained, Settle
from harness.errors import ObserveError
from harness.kernel.pages import GuestState, StateArray
from harness.kernel.settling import (
    BETWEEN_PASSES_SECONDS,
    IDLE_PASSES,
    MERGE_PASSES,
    SettleOutcome,
)
from harness.kernel.zones import PASS_SECONDS
from harness.machine.spec import GuestSpec
from harness.record.events import Settled
from harness.units import MIB


def states(free_blocks: int) -> StateArray:
    """So many unreported free blocks of 2 MiB."""
    found = np.full(BLOCK * BLOCKS, GuestState.USED, np.uint8)
    found[: BLOCK * free_blocks] = GuestState.FREE
    return found


def say(guest: FakeGuest, rounds: Iterable[StateArray]) -> None:
    guest.vm.says["fpr-guest pages"] = page_rounds(rounds)
    guest.vm.says["counters --once"] = counters([zone()])
    guest.host.mappings = [mapping(200 * MIB)]


def settle(guest: FakeGuest, **fields: object) -> Settled:
    Settle.model_validate(fields).perform(guest)
    return guest.recorded(Settled)[-1]


def test_a_guest_with_nothing_to_report_has_drained_at_once(guest: FakeGuest) -> None:
    say(guest, [states(0)])
    event = settle(guest)
    assert (event.outcome, event.remaining, event.held) == (SettleOutcome.DRAINED, 0, 200 * MIB)
    assert guest.record.now() < 1.0
    assert guest.kept(Drained).remaining(guest) == 0


def test_it_waits_as_long_as_blocks_go(guest: FakeGuest) -> None:
    say(guest, [states(30), states(20), states(10), states(0)])
    event = settle(guest)
    assert event.outcome is SettleOutcome.DRAINED
    assert event.seconds == pytest.approx(3.0, abs=1.5), "a look a second, and three falls"
    assert event.zone_t90.keys() == {"node0/DMA32"}


def test_blocks_that_lack_a_few_pages_are_given_time_to_merge(guest: FakeGuest) -> None:
    """They lie on per-CPU lists, which let go of them as pages come and go."""
    found = states(16)
    found[BLOCK // 2 : BLOCK * 16 : BLOCK] = GuestState.USED
    say(guest, [found])
    event = settle(guest)
    assert (event.outcome, event.remaining) == (SettleOutcome.DRAINED, 0)
    wanted = MERGE_PASSES * guest.pass_seconds
    assert wanted < guest.record.now() < wanted + 2.0


def test_what_does_not_move_for_two_passes_is_idle(guest: FakeGuest) -> None:
    say(guest, [states(30)])
    event = settle(guest)
    assert (event.outcome, event.remaining) == (SettleOutcome.IDLE, 60 * MIB)
    assert 4.0 < guest.record.now() < 6.0
    assert guest.kept(Drained).remaining(guest) == 0, "so little may have come since: look again"


def test_more_than_a_batch_that_stays_needs_no_second_look(guest: FakeGuest) -> None:
    say(guest, [states(33)])
    assert settle(guest).outcome is SettleOutcome.IDLE
    assert guest.kept(Drained).remaining(guest) is None


def test_a_guest_with_long_times_between_passes_is_given_them(guest: FakeGuest) -> None:
    guest.pass_seconds = 10.0
    say(guest, [states(30)])
    event = settle(guest)
    assert event.outcome is SettleOutcome.IDLE
    assert 20.0 < guest.record.now() < 22.0


def test_a_deadline_is_an_outcome_and_no_error(guest: FakeGuest) -> None:
    say(guest, [states(number) for number in range(100, 0, -1)])
    event = settle(guest, deadline="8s")
    assert event.outcome is SettleOutcome.MOVING
    assert 8.0 <= guest.record.now() < 10.0


def test_batches_that_a_busy_guest_keeps_moving_may_remain(guest: FakeGuest) -> None:
    say(guest, [states(40), states(32)])
    event = settle(guest, leave_batches=1)
    assert (event.outcome, event.remaining) == (SettleOutcome.DRAINED, 64 * MIB)


def test_a_step_later_the_settle_says_nothing_of_now(guest: FakeGuest) -> None:
    say(guest, [states(0)])
    settle(guest)
    guest.phase("run")
    assert guest.kept(Drained).remaining(guest) is None


def test_a_guest_whose_pages_cannot_be_read_has_not_settled(guest: FakeGuest) -> None:
    say(guest, [states(0)])
    guest.vm.says["counters --once"] = b"nonsense"
    with pytest.raises(ObserveError, match="are not counters"):
        settle(guest)
    assert not guest.recorded(Settled)


@pytest.fixture
def racing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGuest:
    """A guest with a virtual clock."""
    return FakeGuest(tmp_path, monkeypatch, GuestSpec(256 * MIB, 1, clock="virtual"))


def say_racing(guest: FakeGuest, rounds: Iterable[StateArray]) -> None:
    say(guest, [states(0)])
    guest.vm.says["fpr-guest pages"] = page_rounds(rounds, rate=100.0)


LOOK = IDLE_PASSES * PASS_SECONDS + BETWEEN_PASSES_SECONDS
"""Seconds that a guest with a virtual clock sleeps before each look."""


def test_under_a_virtual_clock_the_guest_sleeps_two_passes_before_each_look(
    racing: FakeGuest,
) -> None:
    say_racing(racing, [states(0)])
    assert settle(racing).outcome is SettleOutcome.DRAINED
    assert racing.record.now() == pytest.approx(LOOK, abs=0.3)


def test_under_a_virtual_clock_it_looks_again_as_long_as_blocks_go(racing: FakeGuest) -> None:
    say_racing(racing, [states(30), states(20), states(10), states(0)])
    event = settle(racing)
    assert (event.outcome, event.remaining) == (SettleOutcome.DRAINED, 0)
    assert racing.record.now() == pytest.approx(5 * LOOK, abs=0.5), "the last two see no block"


def test_under_a_virtual_clock_what_two_looks_find_unchanged_is_idle(racing: FakeGuest) -> None:
    say_racing(racing, [states(30)])
    assert settle(racing).outcome is SettleOutcome.IDLE
    assert racing.record.now() == pytest.approx(2 * LOOK, abs=0.3)


def test_under_a_virtual_clock_a_pass_that_discards_is_let_end_before_the_look(
    racing: FakeGuest,
) -> None:
    say_racing(racing, [states(0)])
    racing.host.mappings = [mapping(200 * MIB), mapping(100 * MIB)]
    racing.vm.meanwhile = racing.host.read
    assert settle(racing).outcome is SettleOutcome.DRAINED
    assert racing.record.now() == pytest.approx(LOOK + 2 * BETWEEN_PASSES_SECONDS, abs=0.3)


def test_under_a_virtual_clock_it_is_given_all_its_time(racing: FakeGuest) -> None:
    say_racing(racing, [states(number) for number in range(100, 0, -1)])
    assert settle(racing, deadline="60s").outcome is SettleOutcome.MOVING
    assert 60.0 < racing.record.now() < 60.0 + 2 * LOOK
