# SPDX-License-Identifier: Apache-2.0
"""`repeat`: steps carried out several times."""

import pytest
from fake_guest import FakeGuest

from harness.act.discover import VERBS
from harness.act.perform import perform
from harness.act.verbs.repeat import Repeat
from harness.errors import GuestError
from harness.scenario.steps import unrolled

STEPS = [
    {"repeat": {"times": 3, "steps": [{"run": {"command": "one"}}, {"run": {"command": "two"}}]}},
    {"run": {"command": "end"}},
]


def test_the_inner_steps_follow_each_other_in_each_round(guest: FakeGuest) -> None:
    scenario = VERBS.scenario.model_validate({"name": "x", "title": "t", "steps": STEPS})
    perform(guest, scenario.steps)
    assert guest.vm.commands == [*3 * ["one", "two"], "end"]
    assert guest.phase_names.count("repeat") == 3
    assert [loc for loc, _step in unrolled(scenario.steps)][-3:] == [
        ("steps", 0, "repeat", "steps", 0),
        ("steps", 0, "repeat", "steps", 1),
        ("steps", 1),
    ]
    assert isinstance(scenario.steps[0], Repeat)
    assert scenario.steps[0].in_words() == "3 times (run `one`; run `two`)"


def test_a_round_that_fails_is_the_last(guest: FakeGuest) -> None:
    scenario = VERBS.scenario.model_validate({"name": "x", "title": "t", "steps": STEPS})
    guest.vm.says["two"] = ["", GuestError("no")]
    with pytest.raises(GuestError):
        perform(guest, scenario.steps)
    assert guest.vm.commands == ["one", "two", "one", "two"]
