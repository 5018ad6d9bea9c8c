# SPDX-License-Identifier: Apache-2.0
"""Where results go, and the files made from the record."""

import json
import os
import stat
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from recorded_runs import ALL, KERNEL, KILLED, PASSED

from harness.errors import RecordError, UsageError
from harness.record.events import Judged
from harness.record.facts import Verdict
from harness.record.recorder import Recorder
from harness.record.results_directory import make_results_directory, write_whole
from harness.record.run_directory import RunDirectory
from harness.report.junit import write_junit
from harness.report.summary import build_summary, exit_status, write_summary
from harness.units import MIB

PASS, FAIL, ERROR = Verdict.PASS, Verdict.FAIL, Verdict.ERROR
MISS, SKIP, DONE = Verdict.MISS, Verdict.SKIP, Verdict.DONE


def test_results_go_into_a_directory_of_their_time_and_latest_points_there(tmp_path: Path) -> None:
    first = make_results_directory(None, tmp_path / "results")
    second = make_results_directory(None, tmp_path / "results")
    assert first != second
    assert (tmp_path / "results" / "latest").resolve() == second.resolve()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(
        ["latest", first.name, second.name]
    )


def test_results_go_exactly_where_they_are_asked_to(tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "er"
    assert make_results_directory(wanted) == wanted
    assert [path.name for path in wanted.iterdir()] == ["results.jsonl"]


def test_two_invocations_results_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(UsageError, match="already holds the results"):
        make_results_directory(tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot make the results directory"):
        make_results_directory(tmp_path / "file" / "results")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.mkdir()
    with pytest.raises(RecordError, match=r"cannot write .*summary\.json"):
        write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, linked: bool) -> None:
    """As a device is, of which root could make a file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = tmp_path / "link" if linked else fifo
    if linked:
        path.symlink_to(fifo)
    with pytest.raises(RecordError, match="it is a FIFO, not a regular file"):
        write_whole(path, b"new")
    assert fifo.is_fifo()
    assert path.is_symlink() == linked


def test_summary_json_has_the_contracts_shape(tmp_path: Path) -> None:
    write_summary(build_summary(PASSED), tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "schema": 1,
        "runs": [
            {
                "scenario": "basic",
                "image": "debian-12",
                "kernel": KERNEL,
                "accel": "tcg",
                "clock": "real",
                "qemu": "7.2.22",
                "verdict": "PASS",
                "cause": None,
                "reason": "every expectation holds",
                "seconds": 24.0,
                "measures": {
                    "freed_bytes": 512 * MIB,
                    "reclaimed_bytes": 486 * MIB,
                    "reclaimed_fraction": 486 / 512,
                    "settle_seconds": 9.5,
                    "console_findings": 0,
                },
            }
        ],
    }
    assert '"freed_bytes": 536870912,' in (tmp_path / "summary.json").read_text()


def test_the_last_attempt_of_a_run_counts() -> None:
    runs = {run.run_id: run for run in build_summary(ALL).runs}
    assert list(runs) == ["basic", "partial", "repeat", "numa", "cut"]
    assert runs["repeat"].attempt == 2
    assert runs["repeat"].reason == "QEMU ended at once"
    assert runs["repeat"].hint == "read qemu.log"
    assert runs["repeat"].kernel is None


def test_a_run_without_a_verdict_is_a_miss_and_never_a_pass() -> None:
    (run,) = build_summary(KILLED).runs
    assert run.verdict is Verdict.MISS
    assert "before a verdict" in run.reason
    passed_first = PASSED + [("basic", event) for _run, event in KILLED]
    assert build_summary(passed_first).runs[0].verdict is Verdict.MISS


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([PASS], 0),
        ([PASS, SKIP], 0),
        ([DONE], 0),
        ([PASS, FAIL, MISS, SKIP], 1),
        ([FAIL, ERROR], 1),
        ([PASS, MISS], 69),
        ([PASS, ERROR], 69),
        ([SKIP, MISS], 69),
        ([SKIP, SKIP], 77),
        ([], 69),
    ],
)
def test_the_exit_status_is_the_contracts(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(verdicts) == status


def test_junit_says_failures_errors_and_skips_as_a_ci_reads_them(tmp_path: Path) -> None:
    write_junit(ALL, tmp_path / "junit.xml")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert suite.get("timestamp") == "2026-01-02T03:04:05"
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {
        "tests": "5",
        "failures": "1",
        "errors": "2",
        "skipped": "1",
        "time": "74.900",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["basic"].get("classname") == "basic.debian-12"
    assert cases["basic"].get("time") == "24.000"
    told = {each.get("name"): each.get("value") for each in cases["basic"].iter("property")}
    assert told == {
        "kernel": KERNEL,
        "accel": "tcg",
        "qemu": "7.2.22",
        "image": "debian-12",
        "began": "2026-01-02T03:04:05+00:00",
    }
    assert cases["basic"].find("failure") is None
    failure = cases["partial"].find("failure")
    assert failure is not None
    assert failure.get("type") == "acked-not-discarded"
    assert failure.get("message", "").startswith("258MiB that the guest reported")
    error = cases["repeat"].find("error")
    assert error is not None
    assert (error.get("type"), error.text) == ("MISS", "QEMU ended at once\nread qemu.log")
    assert cases["numa"].find("skipped") is not None
    out = cases["partial"].findtext("system-out")
    assert out is not None
    assert f"evidence: {tmp_path}/partial" in out
    assert "reported_resident_bytes: 270532608" in out


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\ufffe", "\ud800", "]]>&<\"'", "\r\n\t"])
def test_junit_is_xml_whatever_a_guest_said(tmp_path: Path, text: str) -> None:
    judged = Judged(1.0, Verdict.FAIL, None, text, {})
    write_junit([*KILLED, ("cut", judged)], tmp_path / "junit.xml")
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().find(".//failure") is not None


def test_of_two_that_start_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    """One that looked first and wrote later once mixed its records with another's."""
    outcomes: list[object] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        try:
            outcomes.append(make_results_directory(tmp_path / "results"))
        except UsageError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert sum(isinstance(outcome, Path) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, UsageError) for outcome in outcomes) == 7


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    results = tmp_path / "results"
    results.mkdir()
    (results / "results.jsonl").symlink_to(victim)
    with pytest.raises(UsageError, match="already holds"):
        make_results_directory(results)
    with pytest.raises(RecordError):
        Recorder(results)
    assert victim.read_text() == "mine"


def test_results_are_for_their_owner_alone(tmp_path: Path) -> None:
    directory = make_results_directory(tmp_path / "results")
    with Recorder(directory):
        assert stat.S_IMODE((directory / "results.jsonl").stat().st_mode) == 0o600


def test_directory_that_any_user_may_write_to_is_refused(tmp_path: Path) -> None:
    explicit = tmp_path / "r"
    explicit.mkdir()
    explicit.chmod(0o777)
    with pytest.raises(UsageError, match="any user may write to the results directory"):
        make_results_directory(explicit)
    explicit.chmod(0o1777)  # as /tmp: what is one's own stays
    assert make_results_directory(explicit) == explicit


@pytest.mark.parametrize("plant", ["link", "directory"])
def test_a_planted_directory_of_a_run_is_not_written_into(tmp_path: Path, plant: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = tmp_path / "a-run"
    run.symlink_to(elsewhere) if plant == "link" else run.mkdir()
    with pytest.raises(RecordError, match="cannot make the results directory"):
        RunDirectory(run, 1).create()
    assert list(elsewhere.iterdir()) == []
