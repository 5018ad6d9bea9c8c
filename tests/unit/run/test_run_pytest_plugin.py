# SPDX-License-Identifier: Apache-2.0
"""`pytest scenarios` refuses what cannot be meant with one message and the status of the contract.

Each test runs the real pytest; no guest comes up.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu

pytestmark = pytest.mark.whole_command

ROOT = Path(__file__).parents[3]
PLACE = tempfile.TemporaryDirectory(prefix="fpr-test-")
DEAD_QEMU = make_dead_qemu(Path(PLACE.name))


def scenarios(
    *arguments: str, qemu: Path | None = None, path: Path | None = None
) -> tuple[int, str]:
    """Exit status and all output of a session that runs one scenario, on a QEMU that dies."""
    words = ["scenarios", "-k", "reclaim-basic", "--accel", "tcg"]
    words += ["--qemu", str(qemu or DEAD_QEMU)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(path)} if path is not None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=120.0,
    )
    output = ended.stdout + ended.stderr
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    return ended.returncode, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "-1"], "--repeat, --runs and --jobs take a number of at least 1"),
        (["--image", "nosuch"], "no image is called nosuch"),
        (["--image", "nosuch", "-n", "2"], "no image is called nosuch"),
        (["--modules", "/nonexistent"], "--modules needs --kernel"),
        (["--kernel", "/nonexistent"], "--kernel /nonexistent: no such file or directory"),
        (["--kernel", "/bin/true", "--image", "all"], "all images would run the same kernel"),
        (["--set", "guest.bogus=3"], "reclaim-basic: guest.bogus: unknown field"),
    ],
)
def test_bad_usage_is_told_once(tmp_path: Path, arguments: list[str], message: str) -> None:
    status, output = scenarios(*arguments, "--results", str(tmp_path / "results"))
    assert status == 2
    assert output.count(message) == 1
    assert not (tmp_path / "results").exists()


def test_bad_fields_under_xdist_are_told_of_the_selected_scenario(tmp_path: Path) -> None:
    status, output = scenarios(
        "--set", "guest.bogus=3", "-n", "2", "--results", str(tmp_path / "results")
    )
    assert status != 0
    assert "1 error in" in output
    assert "reclaim-basic: guest.bogus: unknown field" in output


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=str)
def test_results_of_another_run_are_not_added_to(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "results.jsonl").touch()
    status, output = scenarios("--results", str(tmp_path), *more)
    assert status == 2
    assert "already holds the results of another run" in output
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_results_that_cannot_be_made_are_no_bad_usage() -> None:
    status, output = scenarios("--results", "/proc/nonexistent")
    assert status == 69
    assert "cannot make the results directory" in output


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=str)
def test_field_that_only_the_selected_scenario_can_have_is_taken(
    tmp_path: Path, more: list[str]
) -> None:
    """Other scenarios of the directory have no third step, or another kind of it."""
    field = "steps[2].churn.size=25%"
    status, output = scenarios("--set", field, *more, "--results", str(tmp_path / "results"))
    assert status == 69
    assert "Cannot allocate memory" in output


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=str)
def test_a_qemu_that_cannot_be_used_is_told_once_before_anything_begins(
    tmp_path: Path, more: list[str]
) -> None:
    status, output = scenarios(
        "--results", str(tmp_path / "results"), *more, qemu=tmp_path / "absent"
    )
    assert status == 69
    # Of an xdist controller that ends so early pytest tells on both streams.
    assert output.count("absent: no such file") == (2 if more else 1)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=str)
def test_each_qemu_is_a_test_of_its_own(tmp_path: Path, more: list[str]) -> None:
    other = tmp_path / "other"
    other.symlink_to(DEAD_QEMU)
    status, output = scenarios(
        "--qemu", f"{other},/nonexistent/qemu", "--results", str(tmp_path / "results"), *more
    )
    assert status == 69
    assert "3 MISS" in output
    runs = json.loads((tmp_path / "results" / "summary.json").read_text())["runs"]
    assert sorted(run["qemu"] or "" for run in runs) == ["", "9.1.2", "9.1.2"]
    assert "/nonexistent/qemu: no such file" in output


def test_scenarios_of_one_name_have_a_verdict_each_and_junit_says_what_ran(tmp_path: Path) -> None:
    for name, memory in (("one", "128MiB"), ("two", "64MiB")):
        directory = tmp_path / name / "scenarios"
        directory.mkdir(parents=True)
        (directory / "twin.yaml").write_text(
            f"name: twin\ntitle: t\nguest: {{memory: {memory}}}\nsteps: [settle: {{}}]\n",
            encoding="utf-8",
        )
    junit = tmp_path / "junit.xml"
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--qemu", str(DEAD_QEMU)]
    words += ["--accel", "tcg", "--junitxml", str(junit), "-p", "no:cacheprovider"]
    words += ["--results", str(tmp_path / "results")]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120.0,
    )
    assert "2 errors in" in ended.stdout, ended.stdout
    runs = json.loads((tmp_path / "results" / "summary.json").read_text())["runs"]
    assert sorted(run["verdict"] for run in runs) == ["ERROR", "MISS"]
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    found = [
        {each.get("name"): each.get("value") for each in case.iter("property")} for case in cases
    ]
    assert sorted(each["verdict"] or "" for each in found) == ["ERROR", "MISS"]
    assert {each["image"] for each in found} == {"bookworm"}
    assert all(datetime.datetime.fromisoformat(each["began"] or "") for each in found)
    assert any(float(case.get("time", "0")) > 0 for case in cases)


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=str)
def test_github_is_told_and_obeys_nothing_that_is_printed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    step = tmp_path / "step"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    _status, output = scenarios("--results", str(tmp_path / "results"), *more)
    lines = output.splitlines()
    (stop,) = (line for line in lines if line.startswith("::stop-commands::"))
    token = stop.removeprefix("::stop-commands::")
    failed = next(number for number, line in enumerate(lines) if "Cannot allocate" in line)
    (told,) = (number for number, line in enumerate(lines) if line.startswith("::warning title="))
    assert lines.index(stop) < failed < lines.index(f"::{token}::") < told
    assert step.read_text().startswith("### fpr-harness: 1 MISS\n")


def test_what_is_in_quarantine_is_expected_to_fail_and_makes_nothing_green(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.yaml"
    entry = "{scenario: reclaim-*, owner: Ada, link: 'https://x.org/1', expires: 2999-01-01}"
    path.write_text(f"quarantine: [{entry}]")
    words = ["--quarantine", str(path), "--results", str(tmp_path / "results")]
    status, output = scenarios(*words)
    assert "1 xfailed" in output
    assert "nothing counts, and in quarantine 1 MISS" in output
    assert status == 69


def test_reruns_are_refused_because_they_hide_failures(tmp_path: Path) -> None:
    plugin = tmp_path / "rerunning.py"
    plugin.write_text("def pytest_addoption(parser):\n    parser.addoption('--reruns', type=int)\n")
    status, output = scenarios(
        "-p", "rerunning", "--reruns", "2", "--results", str(tmp_path / "results"), path=tmp_path
    )
    assert status == 2
    assert "--reruns cannot be used with scenarios" in output
    assert "--repeat" in output
    assert not (tmp_path / "results").exists()


def test_what_a_qemu_or_guest_says_steers_no_terminal(tmp_path: Path) -> None:
    """pytest itself prints what it is given."""
    nasty = tmp_path / "nasty-qemu"
    speak = "printf 'gone \\033[2J\\033]0;title\\007\\302\\2331m\\n' >&2; exit 1"
    nasty.write_text(
        f'#!/bin/sh\ncase "$*" in *"-qmp stdio"*) exec "{DEAD_QEMU}" "$@" ;; esac\n{speak}\n'
    )
    nasty.chmod(0o755)
    status, output = scenarios("--results", str(tmp_path / "results"), qemu=nasty)
    assert status == 69
    assert "gone" in output
    assert {char for char in output if not char.isprintable()} <= {"\n"}
