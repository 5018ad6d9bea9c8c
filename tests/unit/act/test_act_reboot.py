# SPDX-License-Identifier: Apache-2.0
"""`reboot`: the same machine, a guest that has booted again."""

import numpy as np
import pytest
from fake_guest import FakeGuest
from run_builders import a_run, ready

from harness.act.verbs.audit import Audits
from harness.act.verbs.reboot import Reboot
from harness.kernel.pages import Seen
from harness.measure.measures import measure
from harness.record.events import GuestReady, StepsDone
from harness.record.folding import fold
from harness.scenario.steps import Situation
from harness.units import GIB


def test_the_guest_that_boots_again_is_recorded_and_its_pages_are_news(guest: FakeGuest) -> None:
    guest.kept(Audits).seen = np.full(4, Seen.RESIDENT, np.uint8)
    Reboot().perform(guest)
    assert guest.reboots == 1
    assert len(guest.recorded(GuestReady)) == 1
    assert guest.kept(Audits).seen is None


@pytest.mark.parametrize("fact", ["busy", "driver unbound", "dimm plugged"])
def test_what_a_reset_would_undo_is_a_mistake(fact: str) -> None:
    booted = Situation(memory=GIB, hotplug=0, measured=frozenset())
    assert not list(Reboot().mistakes(booted))
    ((_place, words),) = Reboot().mistakes(booted.having(fact))
    assert fact in words


def test_after_it_nothing_is_held_and_no_audit_is_current() -> None:
    *steps, done = a_run()
    assert isinstance(done, StepsDone)
    before = fold(steps)
    after = fold([*steps, ready(t=70.0, page_reporting_order=8)])
    assert (before.held_by_churn > 0, before.audit is None) == (True, False)
    assert (after.held_by_churn, after.audit, after.settle, after.order) == (0, None, None, 8)
    assert measure(after)["boots"] == 2
