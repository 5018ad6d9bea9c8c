# SPDX-License-Identifier: Apache-2.0
"""A set of verbs that the loader is handed: here two of a test's own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.errors import ScenarioFileError
from harness.scenario.fields import Seconds
from harness.scenario.load import load_scenarios
from harness.scenario.steps import Situation, Verb
from harness.scenario.vocabulary import Verbs
from harness.yamlfile import Loc


class Pause(Verb):
    """Stops the guest's CPUs."""

    verb: ClassVar[str] = "pause"
    needs_memory_group: ClassVar[bool] = True
    duration: Seconds = 2.0
    """How long."""

    def expected_seconds(self, _memory: int) -> float:
        return self.duration

    def host_memory(self, memory: int) -> int:
        return 3 * memory

    @property
    def measured(self) -> tuple[str, ...]:
        return ("pause_seconds",)

    def after(self, before: Situation) -> Situation:
        return before.having("paused")

    def perform(self, guest: Any) -> None:
        guest.append("paused")


class Resume(Verb):
    """Lets them go on."""

    verb: ClassVar[str] = "resume"
    breaks_connection: ClassVar[bool] = True

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        if "paused" not in before.facts:
            yield (), "nothing is paused here"

    def after(self, before: Situation) -> Situation:
        return before.lacking("paused")

    def perform(self, guest: Any) -> None:
        guest.append("resumed")


VERBS = Verbs([Resume, Pause])
HEAD = "name: x\ntitle: t\nsteps:\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.yaml"


def test_their_names_are_in_order() -> None:
    assert VERBS.names == ("pause", "resume")
    assert list(VERBS) == [Pause, Resume]


def test_a_scenario_is_made_of_them_and_knows_what_they_say(path: Path) -> None:
    path.write_text(
        HEAD + '  - pause: {duration: 5s}\n  - resume:\nexpect: {pause_seconds: "< 9"}\n'
    )
    (scenario,) = load_scenarios(path, VERBS)
    assert scenario.steps == (Pause.model_validate({"duration": "5s"}), Resume())
    assert scenario.expected_seconds == 5.0 + 1.0
    assert scenario.host_memory == 3 * scenario.guest.memory
    assert scenario.measured == {"pause_seconds"}
    assert scenario.presses
    assert scenario.leaves_its_connection
    guest: list[str] = []
    for step in scenario.steps:
        step.perform(guest)
    assert guest == ["paused", "resumed"]


def test_what_no_step_does_is_not_said_of_the_scenario(path: Path) -> None:
    path.write_text(HEAD + "  - pause:\n")
    (scenario,) = load_scenarios(path, VERBS)
    assert not scenario.leaves_its_connection
    assert scenario.expect == {}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("  - resume:\n", "x.yaml:4: steps[0].resume: nothing is paused here"),
        ("  - pause:\n  - resume:\n  - resume:\n", "x.yaml:6: steps[2].resume: nothing is paused"),
        ("  - pasue:\n", "x.yaml:4: steps[0]: unknown step 'pasue'; did you mean 'pause'; steps"),
        ("  - settle:\n", "x.yaml:4: steps[0]: unknown step 'settle'; steps are: pause, resume"),
        ("  - pause: {duraton: 1s}\n", "unknown field; did you mean 'duration'; fields are: durat"),
    ],
)
def test_their_rules_are_the_loaders(path: Path, steps: str, words: str) -> None:
    path.write_text(HEAD + steps)
    with pytest.raises(ScenarioFileError) as caught:
        load_scenarios(path, VERBS)
    assert words in caught.value.message


def test_two_verbs_cannot_have_one_name() -> None:
    class Other(Resume):
        verb: ClassVar[str] = "pause"

    with pytest.raises(ValueError, match="are both called 'pause'"):
        Verbs([Pause, Other])


def test_a_verb_that_does_nothing_is_none() -> None:
    class Idle(Verb):
        verb: ClassVar[str] = "idle"

    with pytest.raises(TypeError, match="abstract"):
        Idle()  # type: ignore[abstract]


def test_the_room_of_scenarios_knows_no_verb() -> None:
    """Dependencies point one way: loading this room loads nothing of the verbs'."""
    code = (
        "import sys, harness.scenario.load, harness.scenario.schema;"
        "print([name for name in sys.modules if name.startswith('harness.act')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
