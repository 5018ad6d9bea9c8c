# SPDX-License-Identifier: Apache-2.0
"""The history: what a run's events say at its end, at each audit, and as each round ended."""

from dataclasses import replace
from typing import get_args

import pytest
from run_builders import (
    FREED,
    a_run,
    every_step,
    freed,
    healthy,
    mapping,
    noise,
    pressed,
    ready,
    settled,
    started,
)

from harness.kernel.pages import GuestState, HostState
from harness.record.events import (
    Ballooned,
    Broke,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    DevicePlugged,
    DriverChanged,
    Event,
    GuestMoved,
    Measured,
    OrderRead,
    PhaseStarted,
    Suspended,
)
from harness.record.facts import DiscardTotals, Verdict
from harness.record.folding import _after, fold
from harness.record.history import History
from harness.units import MIB

NO_PART_OF_IT = {"judged", "pictured", "stack-decoded"}
"""Events that no measure and no verdict rests on."""


def test_every_kind_of_event_changes_the_history_or_is_known_not_to() -> None:
    """A new kind of event that nobody folds in would be measured by nobody."""
    for kind in get_args(get_args(Event)[0]):
        folded = _after.dispatch(kind) is not _after.dispatch(object)
        assert folded is not (kind.kind in NO_PART_OF_IT), kind.__name__


def test_nothing_has_happened_yet() -> None:
    history = fold([])
    assert (history.ready, history.audit, history.settle, history.order) == (None, None, None, -1)


def test_a_whole_run() -> None:
    history = fold(a_run())
    assert history.ready == ready()
    assert history.in_steps
    assert history.steps_done
    assert history.held_by_churn == 8 * MIB
    assert (len(history.rounds), len(history.audits), len(history.noise)) == (1, 1, 2)
    assert history.audit is history.audits[0]
    assert history.settle == settled()


@pytest.mark.parametrize(
    ("event", "audit_stays", "settle_stays"),
    [
        (ChurnHeld(70.0, FREED, 1.0), False, False),
        (freed(70.0), False, False),
        (pressed(70.0, before=MIB, after=0), False, True),
        (Ballooned(70.0, MIB, 1.0), False, True),
        (DevicePlugged(70.0, "balloon", 0, present=False, seconds=1.0), False, True),
        (GuestMoved(70.0, "cancelled", 1.0), False, True),
        (Suspended(70.0, "mem", 1.0, slept=True), False, True),
        (ChurnVerified(70.0, MIB, 0), True, True),
        (DriverChanged(70.0, bound=False), True, True),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_puts_an_audit_or_a_settle_out_of_date(
    event: Event, audit_stays: bool, settle_stays: bool
) -> None:
    history = fold([*a_run(last=()), event])
    assert (history.audit is not None) is audit_stays
    assert (history.settle is not None) is settle_stays
    assert len(history.audits) == 1, "that it was taken stays known"


class TestMoments:
    """A check of an audit is judged over what was known then, and nothing of what follows."""

    def run(self) -> History:
        early = healthy().audited(15.0, "early")
        late = ConsoleFinding(58.0, "warning", "late", "...")
        return fold([*a_run(earlier=[early], last=()), late])

    def test_at_an_audit_it_is_as_it_was_then(self) -> None:
        history = self.run()
        then = history.at("early")
        assert then is not None
        assert then.audit is then.audits[-1]
        assert then.audit.name == "early"
        assert (then.rounds, then.settle, then.troubles, then.noise) == (
            (),
            None,
            (),
            (noise(4.0),),
        )
        final = history.at("final")
        assert final is not None
        assert (len(final.rounds), len(final.audits), final.troubles) == (1, 2, ())
        assert final.at("early") is then
        assert final.at("final") is None, "an audit does not come before itself"

    def test_of_two_audits_of_one_name_the_latest_counts(self) -> None:
        one, two = healthy().audited(1.0, "round"), healthy().audited(2.0, "round")
        then = fold([one, two]).at("round")
        assert then is not None
        assert then.audits[-1] is two

    def test_an_audit_that_was_never_taken(self) -> None:
        assert self.run().at("never") is None

    def test_it_equals_the_fold_of_the_events_so_far(self) -> None:
        """By every field but the histories, which are compared by who they are."""
        events = [*a_run(earlier=[healthy().audited(15.0, "early")]), *every_step()]
        whole = fold(events)
        for then in whole.at_audits:
            index = next(i for i, event in enumerate(events) if event is then.audits[-1])
            alone = fold(events[: index + 1])
            for name in ("boots", "fills", "held_by_churn", "verifications", "settles", "audits"):
                assert getattr(then, name) == getattr(alone, name)


class TestRounds:
    def rounds(self, *held: int) -> list[Event]:
        events: list[Event] = started()
        for number, size in enumerate(held):
            events += [ChurnHeld(number, FREED, 1.0), freed(number), settled(held=size * MIB)]
        return events

    def test_each_has_what_was_seen_last_in_it(self) -> None:
        after = healthy().audited(mapping=mapping(30 * MIB))
        history = fold([*self.rounds(56, 40), after, ChurnHeld(9.0, FREED, 1.0), settled(held=1)])
        assert [round_.held for round_ in history.rounds] == [56 * MIB, 30 * MIB]
        assert [round_.reclaimed for round_ in history.rounds] == [160 * MIB, 186 * MIB]

    def test_pressure_counts_as_a_look(self) -> None:
        history = fold([*self.rounds(56), pressed(9.0, before=56 * MIB, after=16 * MIB)])
        assert history.rounds[0].fraction == (216 - 16) / 160

    def test_the_end_of_each_is_before_memory_is_taken_or_freed_again(self) -> None:
        history = fold(self.rounds(56, 40))
        first, second = history.round_end(0), history.round_end(1)
        assert (len(first.rounds), first.settle) == (1, settled(held=56 * MIB))
        assert second is history, "the latest round goes on"

    def test_two_frees_of_one_fill_are_two_rounds(self) -> None:
        history = fold([*started(), freed(1.0), settled(held=MIB), freed(2.0)])
        assert [round_.held for round_ in history.rounds] == [MIB, None]
        assert history.round_end(0).settle == settled(held=MIB)

    def test_it_knows_the_audit_before_it_and_what_was_held_then(self) -> None:
        early = healthy().audited(15.0, "early")
        before = fold(a_run(earlier=[early])).rounds[0].before
        assert before is not None
        assert before.audits[-1] is early
        assert before.held_by_churn == FREED + 8 * MIB
        assert fold(a_run()).rounds[0].before is None


class TestDiscards:
    """Counted from the latest free, as long as one trace covers it all."""

    BEFORE, NOW = DiscardTotals(4, 30 * MIB, 0, 0), DiscardTotals(9, 100 * MIB, 0, 0)

    def since(self, *between: Event) -> DiscardTotals | None:
        events = [*started(), freed(discards_before=self.BEFORE), *between]
        return fold([*events, healthy().audited(discards=self.NOW)]).discards_since_free

    def test_since_the_free(self) -> None:
        assert self.since() == DiscardTotals(5, 70 * MIB, 0, 0)

    @pytest.mark.parametrize(
        ("event", "known"),
        [
            (GuestMoved(30.0, "migrated", 1.0), False),
            (GuestMoved(30.0, "restored", 1.0), False),
            (GuestMoved(30.0, "cancelled", 1.0), True),
            (DevicePlugged(30.0, "dimm", MIB, present=True, seconds=1.0), False),
            (DevicePlugged(30.0, "balloon", 0, present=True, seconds=1.0), True),
        ],
    )
    def test_another_trace_knows_nothing_of_it(self, event: Event, known: bool) -> None:
        assert (self.since(event) is not None) is known

    def test_a_later_free_starts_anew(self) -> None:
        again = freed(40.0, discards_before=replace(self.NOW, bytes=90 * MIB))
        found = self.since(GuestMoved(30.0, "migrated", 1.0), again)
        assert found is not None
        assert found.bytes == 10 * MIB

    def test_without_a_free_since_launch(self) -> None:
        assert fold([healthy().audited(discards=self.NOW)]).discards_since_free == self.NOW


def test_the_order_is_the_latest_that_was_read() -> None:
    history = fold([ready(page_reporting_order=9), OrderRead(5.0, asked=2, refused=False, read=2)])
    assert history.order == 2
    assert history.at_audits == ()


def test_trouble_is_told_with_what_the_guest_was_doing() -> None:
    crash = ConsoleFinding(5.0, "crash", "panic", "...")
    booting: list[Event] = [PhaseStarted(0.0, "boot"), crash, ready(accel="kvm"), crash]
    history = fold([*booting, PhaseStarted(6.0, "settle"), crash])
    seen = [(trouble.in_steps, trouble.under_kvm) for trouble in history.troubles]
    assert seen == [(False, False), (False, True), (True, True)]


def test_losses_keep_their_order() -> None:
    lossy = healthy().blocks(18, 1, GuestState.HELD, HostState.ABSENT).audited()
    changed = ChurnVerified(20.0, MIB, 3)
    clean: list[Event] = [healthy().audited(), ChurnVerified(19.0, MIB, 0)]
    assert fold([*clean, lossy, *clean, changed]).losses == (lossy, changed)


def test_what_broke_first_is_what_broke_it() -> None:
    first = Broke(1.0, "SshError", Verdict.MISS, "lost", "")
    assert fold([first, replace(first, message="again")]).broke is first


def test_numbers_of_the_steps_own_are_kept_in_order() -> None:
    own = (Measured(1.0, "x", 1.0), Measured(2.0, "x", 2.0))
    assert fold(own).own == own
