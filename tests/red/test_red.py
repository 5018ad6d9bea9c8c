# SPDX-License-Identifier: Apache-2.0
"""Every scenario with its negative control (`red` in its file): none of them may be green.

`make test-red` runs them on the default image; each takes as long as the scenario.
"""

import json
import os
from pathlib import Path

import pytest
from running import Running

from harness.act.discover import VERBS
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all
from harness.scenario.model import Scenario

CONTROLLED = [each for each in load_all(sorted(SCENARIOS_DIR.glob("*.yaml")), VERBS) if each.red]
IMAGE = os.environ.get("FPR_RED_IMAGE", "bookworm")


@pytest.mark.vm
@pytest.mark.parametrize("scenario", CONTROLLED, ids=lambda scenario: scenario.name)
def test_the_negative_control_is_not_green(scenario: Scenario, tmp_path: Path) -> None:
    overrides = [f"{name}={json.dumps(value)}" for name, value in scenario.red.items()]
    arguments = [word for override in overrides for word in ("--set", override)]
    run = Running(tmp_path / "results", ["run", scenario.name, "--image", IMAGE, *arguments])
    _code, output = run.end(120.0 + 4 * scenario.expected_seconds)
    document = json.loads((run.results / "summary.json").read_text(encoding="utf-8"))
    (judged,) = document["runs"]
    if judged["verdict"] == "SKIP":
        pytest.skip(judged["reason"])
    assert judged["verdict"] in ("FAIL", "ERROR"), output
    print(f"RED {scenario.name}: {judged['verdict']} {judged['cause']}: {judged['reason']}")
