# SPDX-License-Identifier: Apache-2.0
"""`run` and `require`: commands of the scenario's own, in the guest."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.guest_command import Require, Run
from harness.errors import DeadlineError, GuestError, PreconditionError
from harness.record.events import Measured
from harness.record.facts import Cause


def test_numbers_that_it_prints_are_measures(guest: FakeGuest) -> None:
    guest.vm.says["measure"] = "boot_ms=12.5\nnoise\nlost=-3\nother=9\n"
    step = Run.model_validate(
        {"command": "measure", "deadline": "5s", "measures": {"boot_ms": None, "lost": "data-loss"}}
    )
    assert step.measured == ("boot_ms", "lost")
    step.perform(guest)
    assert guest.vm.timeouts == [5.0]
    assert [(each.name, each.value, each.means) for each in guest.recorded(Measured)] == [
        ("boot_ms", 12.5, None),
        ("lost", -3.0, Cause.DATA_LOSS),
    ]


def test_only_the_first_line_stands_in_the_record_of_phases(guest: FakeGuest) -> None:
    Run.model_validate({"command": "one\ntwo\n"}).perform(guest)
    assert guest.vm.commands == ["one\ntwo\n"]
    assert Run.model_validate({"command": "one\ntwo\n"}).in_words() == "run `one`"


@pytest.mark.parametrize("said", ["", "boot_ms=\n", "boot_ms=soon\n", " boot_ms=1\n"])
def test_a_number_that_is_missing_is_an_error_and_no_zero(guest: FakeGuest, said: str) -> None:
    guest.vm.says["measure"] = said
    step = Run.model_validate({"command": "measure", "measures": ["boot_ms"]})
    with pytest.raises(GuestError, match="printed no line `boot_ms=NUMBER`"):
        step.perform(guest)
    assert not guest.recorded(Measured)


@pytest.mark.parametrize("answer", [1, DeadlineError("no answer")])
def test_a_command_that_fails_or_does_not_end_breaks_the_scenario(
    guest: FakeGuest, answer: object
) -> None:
    guest.vm.says["false"] = answer
    with pytest.raises((GuestError, DeadlineError)):
        Run.model_validate({"command": "false"}).perform(guest)


def test_what_is_required_is_there_or_the_run_is_a_skip(guest: FakeGuest) -> None:
    step = Require.model_validate({"command": "test -d /sys/power", "missing": "sleep states"})
    step.perform(guest)
    guest.vm.says["test -d"] = 1
    with pytest.raises(PreconditionError, match=r"the guest \(6.1.0-test\) lacks sleep states"):
        step.perform(guest)
