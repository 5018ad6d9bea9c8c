# SPDX-License-Identifier: Apache-2.0
"""Real runs, judged again from the files they left: the whole default set, and broken hosts."""

import functools
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from timing import least_seconds

from harness.act.discover import VERBS
from harness.cli.main import main
from harness.record.events import Audited
from harness.record.facts import Cause, Verdict
from harness.record.reaudit import audit_again
from harness.record.recorded_run import RecordedRun, read_runs
from harness.scenario.selection import find_scenarios
from harness.verdict.rejudge import Terms, judge_again

RESULTS = Path(__file__).parents[2] / "data" / "recorded"
SECONDS = 0.5
"""A recorded run of a minute may take so long to judge."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every recorded results directory."""
    place = tmp_path_factory.mktemp("recorded")
    for archive in sorted(RESULTS.glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
    return place


@pytest.fixture(scope="module")
def runs(unpacked: Path) -> list[RecordedRun]:
    return [
        run for each in sorted(unpacked.rglob("results.jsonl")) for run in read_runs(each.parent)
    ]


def terms_of(run: RecordedRun) -> Terms:
    assert run.started.plan is not None
    return Terms(run.started.plan.asked)


NEWER = {
    *("idle-stays-quiet", "many-reports", "poison-announced", "hotplug-behind-reported"),
    "reused-at-once",
}
"""Scenarios that came after the record."""


def test_every_scenario_of_the_default_set_is_among_them(runs: list[RecordedRun]) -> None:
    default = {scenario.name for scenario in find_scenarios([], VERBS)}
    assert {run.started.scenario for run in runs} >= default - NEWER


def test_each_gets_the_line_it_had(runs: list[RecordedRun]) -> None:
    """All of it, but for measures that are newer than the record."""
    for run in runs:
        events, _remarks = audit_again(run.events, run.directory)
        again = judge_again(run, events, terms_of(run))
        assert run.judged is not None
        known = run.judged.measures
        measures = {name: value for name, value in again.measures.items() if name in known}
        assert replace(again, measures=measures) == run.judged, run.run_id


def test_each_audit_falls_into_the_same_cells(runs: list[RecordedRun]) -> None:
    audits = 0
    for run in runs:
        events, _remarks = audit_again(run.events, run.directory)
        for before, after in zip(run.events, events, strict=True):
            if isinstance(before, Audited) and isinstance(after, Audited):
                audits += 1
                assert after.report.per_zone == before.report.per_zone
                assert after.report.total == before.report.total
                assert after.report.suspect_pfns == before.report.suspect_pfns
    assert audits > 50


def test_a_minute_is_judged_within_half_a_second(unpacked: Path) -> None:
    def judge(run: RecordedRun) -> None:
        events, _remarks = audit_again(run.events, run.directory)
        judge_again(run, events, terms_of(run))

    for run in read_runs(unpacked / "default"):
        minutes = max(1.0, run.events[-1].t / 60.0)
        assert least_seconds(functools.partial(judge, run)) < SECONDS * minutes, run.run_id
    assert least_seconds(lambda: read_runs(unpacked / "default")) < SECONDS


def test_the_command_says_what_the_run_said(
    unpacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(unpacked / "default")]) == 0
    said = capsys.readouterr().out
    assert "20 PASS under tcg" in said
    assert "recorded as" not in said
    broken = sorted(str(path) for path in (unpacked / "broken").iterdir())
    assert main(["judge", *broken]) == 1
    said = capsys.readouterr().out
    assert said.count("1 FAIL under tcg") == 3
    assert "recorded as" not in said


def test_the_page_that_a_fail_names_is_looked_up(
    unpacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["page", str(unpacked / "broken" / "swallow-half"), "0x3000"]) == 0
    said = capsys.readouterr().out
    assert "(discards.log:353)" in said
    assert "although QEMU discarded it 2 times, last at 27.1 s" in said
    assert main(["page", str(unpacked / "broken" / "neighbour"), "0xaa00"]) == 0
    said = capsys.readouterr().out
    assert (
        "the churn tool (pid 133) holds it and has written it, but the host does not hold it: lost"
        in said
    )
    assert "QEMU discarded it once, at 8.7 s, and not since audit 'before'" in said


def test_the_broken_ones_are_named(runs: list[RecordedRun]) -> None:
    causes = {run.judged.cause for run in runs if run.judged and run.judged.verdict is Verdict.FAIL}
    assert causes >= {Cause.ACKED_NOT_DISCARDED, Cause.DATA_LOSS, Cause.GUEST_RETAINED}
