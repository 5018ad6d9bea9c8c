# SPDX-License-Identifier: Apache-2.0
"""The list of scenarios: by tag, a line each, with length and needs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.act.discover import VERBS
from harness.cli.list_command import lines
from harness.cli.main import main
from harness.machine.needs import NEEDS
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all
from harness.scenario.model import Scenario
from harness.units import GIB


def scenario(name: str, *tags: str, **more: Any) -> Scenario:
    plain = {"name": name, "title": "Same title", "tags": tags, "steps": [{"settle": {}}]}
    return VERBS.scenario.model_validate(plain | more)


def test_each_scenario_stands_once_under_its_first_group() -> None:
    swap = scenario("b-one", "full", "needs-swap", guest={"memory": "2GiB"})
    moving = scenario("c", "odd", steps=[{"migrate": {}}, {"settle": {"deadline": "2s"}}])
    off = scenario("b-two", "full", "control")
    told = list(lines([scenario("a", "full", "default"), swap, off, moving]))
    assert told[:12] == [
        "default: what `run` runs by default (1, about 6 s one after another)",
        "  a         6 s  1GiB              Same title",
        "",
        "full: the rest of the catalogue, except for the groups below "
        "(2, about 12 s one after another)",
        "  and 1 of those above, which also have this tag",
        "  b-one     6 s  2GiB swap         Same title",
        '  b-two     6 s  1GiB control      "',
        "",
        "other (1, about 22 s one after another)",
        "  c        22 s  1GiB x 2          Same title",
        "",
        "in total: 4, about 40 s one after another; durations are estimates for TCG",
    ]
    assert not any("of those above" in line for line in lines([off]))


def test_the_whole_catalogue_is_listed_with_every_tag_and_need_explained() -> None:
    scenarios = load_all(sorted(SCENARIOS_DIR.glob("*.yaml")), VERBS)
    told = list(lines(scenarios))
    for each in scenarios:
        assert sum(line.split()[:1] == [each.name] for line in told) == 1
    for tag in dict.fromkeys(tag for each in scenarios for tag in each.tags):
        assert any(line.split()[:1] in ([tag.removeprefix("needs-")], [f"{tag}:"]) for line in told)
    for tag, need in NEEDS.items():
        assert any(tag.removeprefix("needs-") in line and need.about in line for line in told)


def test_a_document_for_programs_has_bytes_and_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "--json", "reclaim-basic"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    (said,) = document["scenarios"]
    assert said["name"] == "reclaim-basic"
    assert said["guest_memory"] == GIB
    assert said["expected_seconds"] > 0
    assert said["expect"]["reclaimed_bytes"] == ">= 0.95 * reclaimable_bytes"


def test_one_tag_is_listed_and_an_unknown_one_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, tag in (("one", "full"), ("two", "odd")):
        text = f"name: {name}\ntitle: t\ntags: [{tag}]\nsteps: [settle: {{}}]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    own = ["list", "--scenarios", str(tmp_path)]
    assert main([*own, "--tag", "odd"]) == 0
    out = capsys.readouterr().out
    assert "  two " in out
    assert "  one " not in out
    assert main([*own, "--tag", "ful"]) == 2
    assert "did you mean 'full'" in capsys.readouterr().err
    assert main([*own, "on*", "--tag", "odd"]) == 2
    assert main([*own, "x*"]) == 2
    assert "'x*' (a pattern)" in capsys.readouterr().err


@pytest.mark.whole_command
def test_output_that_nobody_reads_is_no_failure() -> None:
    """rich would end the process with 1, which says FAIL."""
    command = f"{sys.executable} -m harness list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", "141"), done.stderr
