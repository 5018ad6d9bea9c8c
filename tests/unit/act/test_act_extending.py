# SPDX-License-Identifier: Apache-2.0
"""The example of docs/extending.md does what the document says."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_guest import FakeGuest
from guest_words import churn, counters, page_rounds
from run_builders import BLOCK, BLOCKS, zone

from harness.act.discover import VERBS
from harness.act.perform import perform
from harness.errors import ScenarioFileError
from harness.kernel.pages import GuestState
from harness.record.events import Measured
from harness.report.steps_document import steps_document
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.scenario.steps import Verb
from harness.scenario.vocabulary import Verbs
from harness.units import MIB

DOCUMENT = SCENARIOS_DIR.parent / "docs" / "extending.md"
(CHAPTER,) = re.findall(
    r"^## Your first verb\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S
)
MODULE, TEST = re.findall(r"^```python\n(.*?)^```", CHAPTER, re.M | re.S)
(SCENARIO,) = re.findall(r"^```yaml\n(.*?)^```", CHAPTER, re.M | re.S)
NAME = "harness.act.verbs.pause"


@pytest.fixture
def pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Verb]:
    """The verb of the document, as if its module were there."""
    path = tmp_path / "pause.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, NAME, module)
    spec.loader.exec_module(module)
    verb: type[Verb] = module.Pause
    assert issubclass(verb, Verb)
    return verb


def test_its_tests_pass(pause: type[Verb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del pause
    tests: dict[str, object] = {}
    exec(compile(TEST, "test_act_pause", "exec"), tests)
    names = [node.name for node in ast.parse(TEST).body if isinstance(node, ast.FunctionDef)]
    assert len(names) == 2
    for name in names:
        test = tests[name]
        assert callable(test)
        test(FakeGuest(tmp_path, monkeypatch))


def test_its_scenario_is_loaded_and_carried_out(
    pause: type[Verb], guest: FakeGuest, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO)
    (scenario,) = load_scenarios(path, Verbs([*VERBS, pause]))
    states = np.full(BLOCK * BLOCKS, GuestState.USED, np.uint8)
    guest.vm.says["fpr-guest pages"] = lambda _command: page_rounds([states])
    guest.vm.says["fpr-guest churn"] = churn(128 * MIB)
    guest.vm.says["counters --once"] = counters([zone()])
    perform(guest, scenario.steps)
    (event,) = guest.recorded(Measured)
    assert event.value >= 3.0


def test_the_steps_at_its_head_are_those_of_the_scenario() -> None:
    head = re.search(r"    steps:\n((?:      .*\n)+)", CHAPTER)
    assert head is not None
    for line in head[1].splitlines():
        assert line.strip() in SCENARIO


def test_its_rule_is_told_with_the_line(pause: type[Verb], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntitle: t\nsteps:\n  - settle:\n  - pause: {duration: 0s}\n")
    with pytest.raises(ScenarioFileError, match=r"mine.yaml:5: steps\[1\].pause.duration: must be"):
        load_scenarios(path, Verbs([*VERBS, pause]))


def test_its_docstrings_are_its_documentation(pause: type[Verb]) -> None:
    text = steps_document(Verbs([*VERBS, pause]))
    assert "Stops the guest's CPUs, and lets them go on." in text
    assert "| `duration` | `2s` | How long they stand. |" in text
