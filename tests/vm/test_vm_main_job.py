# SPDX-License-Identifier: Apache-2.0
"""The main job on real guests: the verdict, the files of the contract, and judging them again."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from leftovers import vm_directories
from running import Running, qemus_of

from harness.act.discover import VERBS
from harness.record.audit_file import load_audit
from harness.record.events import Audited, Event, Judged, Pictured
from harness.record.folding import fold
from harness.record.reader import read_events
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.units import KIB
from harness.verdict.judge import judge

pytestmark = pytest.mark.vm

NAMES = ("reclaim-basic", "control-reporting-off")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One invocation of two scenarios, side by side."""
    run = Running(tmp_path_factory.mktemp("main") / "results", ["run", *NAMES])
    code, output = run.end(180.0)
    assert code == 0, output
    assert "2 PASS" in output
    assert "MiB back" in output
    assert qemus_of(run.results) == []
    assert vm_directories(run.process.pid) == []
    return run.results


def runs(results: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert document["schema"] == 1
    return {run["scenario"]: run for run in document["runs"]}


def events(results: Path, name: str) -> list[Event]:
    return [event for run, event in read_events(results / "results.jsonl") if run == name]


def test_freed_memory_came_back(results: Path) -> None:
    run = runs(results)["reclaim-basic"]
    assert run["verdict"] == "PASS"
    measures = run["measures"]
    assert measures["freed_bytes"] == 512 << 20
    assert measures["reclaimed_bytes"] > 0.85 * measures["freed_bytes"]
    assert measures["reported_resident_bytes"] == 0
    assert measures["discarded_bytes"] == pytest.approx(measures["reclaimed_bytes"], rel=0.1)


def test_nothing_came_back_with_reporting_off(results: Path) -> None:
    measures = runs(results)["control-reporting-off"]["measures"]
    assert measures["reclaimed_bytes"] <= 0.01 * measures["freed_bytes"]
    assert measures["discarded_bytes"] == measures["reported_bytes"] == 0
    assert measures["unreported_free_bytes"] > 0.8 * measures["freed_bytes"]


def test_the_files_are_those_of_the_contract(results: Path) -> None:
    assert {path.name for path in results.iterdir()} == {
        *NAMES,
        "results.jsonl",
        "summary.json",
        "junit.xml",
        "report.html",
    }
    for name in NAMES:
        assert {path.name for path in (results / name).iterdir()} == {
            "console.log",
            "harness.log",
            "qemu.log",
            "qmp.log",
            "discards.log",
            "samples",
            "audits",
            "repro.sh",
        }
        assert os.access(results / name / "repro.sh", os.X_OK)
        subprocess.run(["sh", "-n", str(results / name / "repro.sh")], check=True)
    suite = ElementTree.parse(results / "junit.xml").getroot()
    assert suite.get("tests") == "2" or suite[0].get("tests") == "2"
    assert list(suite.iter("failure")) == list(suite.iter("error")) == []


@pytest.mark.parametrize("name", NAMES)
def test_repro_prints_the_scenario_as_it_was_run(results: Path, name: str, tmp_path: Path) -> None:
    command = ["sh", str(results / name / "repro.sh"), "scenario"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = tmp_path / f"{name}.yaml"
    written.write_text(printed)
    assert load_scenarios(written, VERBS) == load_scenarios(SCENARIOS_DIR / f"{name}.yaml", VERBS)


@pytest.mark.parametrize("name", NAMES)
def test_judged_again_from_its_files_the_verdict_is_the_same(results: Path, name: str) -> None:
    recorded = events(results, name)
    judged = recorded[-1]
    assert isinstance(judged, Judged)
    (scenario,) = load_scenarios(SCENARIOS_DIR / f"{name}.yaml", VERBS)
    again = judge(fold(recorded[:-1]), scenario.asked, t=judged.t)
    assert again == judged


@pytest.mark.parametrize("name", NAMES)
def test_audits_reduced_again_from_their_pages_are_the_same(results: Path, name: str) -> None:
    recorded = events(results, name)
    looks: list[Pictured | Audited] = [event for event in recorded if isinstance(event, Pictured)]
    looks += [event for event in recorded if isinstance(event, Audited)]
    files = sorted((results / name / "audits").iterdir())
    numbered = enumerate([look.name for look in looks])
    assert [path.stem for path in files] == [f"{number:02}-{name}" for number, name in numbered]
    assert files[0].stem == "00-peak"
    for event, path in zip(looks, files, strict=True):
        assert load_audit(path).reduce()[0] == event.report
        assert path.stat().st_size < 64 * KIB
