# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness judge`: recorded runs judged again, by what they were asked or by something else."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from judging import swallowed
from results_builders import Recorded, inputs_of, write_results
from run_builders import healthy

from harness.cli.main import main
from harness.kernel.pages import HostState
from harness.record.audit_file import save_audit
from harness.record.run_directory import audit_path

BOTH = {"good": Recorded(), "bad": Recorded({"final": swallowed()})}
"""A healthy host and one that kept what was discarded."""


def judge(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit status, and all that was printed."""
    capsys.readouterr()
    status = main(["judge", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results", BOTH)


def lines_of(results: Path) -> list[str]:
    return (results / "results.jsonl").read_text().splitlines(keepends=True)


def rewrite(results: Path, lines: list[str]) -> None:
    (results / "results.jsonl").write_text("".join(lines))


def test_runs_get_the_verdicts_they_had(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    before = (results / "results.jsonl").read_bytes()
    status, said = judge(capsys, results)
    assert status == 1
    assert "FAIL acked-not-discarded" in said
    assert "1 PASS, 1 FAIL" in said
    assert f"evidence: {results}/bad/" in said
    assert "note:" not in said, "audits made again say what was recorded"
    assert (results / "results.jsonl").read_bytes() == before, "results are left alone"


def test_several_directories_are_judged_each_with_its_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = write_results(tmp_path / "one", {"good": Recorded()})
    two = write_results(tmp_path / "two", {"good@sid": Recorded()})
    status, said = judge(capsys, one, two)
    assert status == 0
    assert said.count("1 PASS under tcg") == 2


@pytest.mark.parametrize(
    ("expect", "status", "word"),
    [
        ("reclaimed_fraction=>= 0.95", 0, "PASS"),
        ("reclaimed_fraction=>= 110%", 1, "FAIL"),
        ("reclaimed_fraction >= 110%", 1, "FAIL"),
        ("reported_bytes=== 0", 1, "FAIL"),
        ("reported_bytes == 204MiB", 0, "PASS"),
        ("final.reported_bytes > 1", 0, "PASS"),
        ("ballooned_bytes=< 1", 69, "MISS"),
    ],
)
def test_another_expectation_stands_beside_or_instead_of_the_recorded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, expect: str, status: int, word: str
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    found, said = judge(capsys, results, "--expect", expect)
    assert (found, f"1 {word} under" in said) == (status, True), said
    assert ("recorded as PASS" in said) == (word != "PASS")


def test_what_failed_may_pass_by_other_bounds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"bad": Recorded({"final": swallowed(4)})})
    assert judge(capsys, results)[0] == 1
    status, said = judge(capsys, results, "--expect", "reported_resident_bytes<=8MiB")
    assert status == 0
    assert "note: bad: judged as PASS, recorded as FAIL acked-not-discarded" in said


def test_a_run_that_ends_early_is_no_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"cut": Recorded(verdict=False)})
    status, said = judge(capsys, results)
    assert status == 69
    assert "MISS cut" in said
    assert "the record ends before the scenario's last step" in said


def test_a_torn_line_makes_no_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A warning of the guest's kernel may have stood there."""
    results = write_results(tmp_path / "results", {"good": Recorded()})
    lines = lines_of(results)
    rewrite(results, [*lines[:-2], lines[-2][:30] + "\n", lines[-1]])
    status, said = judge(capsys, results)
    assert status == 69
    assert f"line {len(lines) - 1} of results.jsonl is torn" in said


LOST_OR_DOUBLED = ("taken out", "doubled", "moved behind the last step")


@pytest.mark.parametrize("change", LOST_OR_DOUBLED)
def test_a_record_with_other_lines_than_were_written_makes_no_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str
) -> None:
    """A whole line leaves no trace where it stood: a warning of the guest's kernel, say."""
    results = write_results(tmp_path / "results", {"good": Recorded()})
    lines = lines_of(results)
    assert '"steps-done"' in lines[-2]
    for number in range(1, len(lines) - 2):
        before, line, after = lines[:number], lines[number], lines[number + 1 : -1]
        changed = {
            "taken out": [*before, *after],
            "doubled": [*before, line, line, *after],
            "moved behind the last step": [*before, *after, line],
        }
        rewrite(results, [*changed[change], lines[-1]])
        status, said = judge(capsys, results)
        assert status == 69, f"{line}{said}"
        assert f"counts {len(lines) - 2} events before it, but there are" in said


def test_damage_stays_a_fail_in_a_record_that_lacks_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lost = healthy()
    lost.host[18 * 512] = HostState.ABSENT
    results = write_results(tmp_path / "results", {"lost": Recorded({"final": lost})})
    lines = lines_of(results)
    rewrite(results, [*lines[:-3], *lines[-2:]])
    status, said = judge(capsys, results)
    assert (status, "FAIL data-loss" in said) == (1, True)


def test_damage_before_a_torn_line_is_still_a_fail(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lost = healthy()
    lost.host[18 * 512] = HostState.ABSENT
    results = write_results(tmp_path / "results", {"lost": Recorded({"final": lost})})
    lines = lines_of(results)
    rewrite(results, [*lines[:-2], lines[-2][:30] + "\n", lines[-1]])
    status, said = judge(capsys, results)
    assert (status, "FAIL data-loss" in said) == (1, True)


def test_what_an_older_version_did_not_report_is_no_difference(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    old = [
        re.sub(r'"(withheld|free_undiscarded)": \d+', r'"\1": null', line)
        for line in lines_of(results)
    ]
    assert old != lines_of(results)
    rewrite(results, old)
    status, said = judge(capsys, results)
    assert (status, "differs" in said) == (0, False), said


def test_audits_are_made_anew_and_a_report_that_differs_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    save_audit(audit_path(results / "good", 1, "final"), inputs_of(swallowed()))
    status, said = judge(capsys, results)
    assert (status, "FAIL acked-not-discarded" in said) == (1, True)
    assert (
        "note: good: audit 'final': the report computed from its page states differs from" in said
    )
    assert "reported_resident 160MiB, not 0B" in said


def test_pages_that_somebody_has_edited_are_no_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The record has the checksum of each file, so that no other can stand in for it."""
    results = write_results(tmp_path / "results", {"edited": Recorded({"final": swallowed()})})
    pages = audit_path(results / "edited", 1, "final")
    checksum = hashlib.sha256(pages.read_bytes()).hexdigest()
    text = "".join(lines_of(results))
    assert text.count('"sha256": null') == 1
    rewrite(results, [text.replace('"sha256": null', f'"sha256": "{checksum}"')])
    assert "FAIL acked-not-discarded" in judge(capsys, results)[1]

    assert save_audit(pages, inputs_of(healthy())) != checksum
    status, said = judge(capsys, results, "--expect", "reported_resident_bytes=>= 0")
    assert (status, "PASS" in said) == (69, False)
    assert "audit 'final': the audit's file is not the one that the run wrote" in said


def test_a_report_that_lacks_a_cell_is_told_apart_too(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    """As an earlier version may have written it."""
    text = "".join(lines_of(results))
    assert '"offline_resident": 0' in text
    rewrite(results, [text.replace('"offline_resident": 0', '"offline_resident": null')])
    assert "offline_resident 0B, not unknown" in judge(capsys, results)[1]


def test_the_file_of_another_audit_is_not_taken_for_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A healthy audit's pages must not stand in for those of a bad one."""
    guests = {"early": healthy(), "final": swallowed()}
    results = write_results(tmp_path / "results", {"bad": Recorded(guests)})
    shutil.copy(
        audit_path(results / "bad", 1, "early"),
        audit_path(results / "bad", 2, "final"),
    )
    status, said = judge(capsys, results)
    assert (status, "FAIL acked-not-discarded" in said) == (1, True)
    assert "the file is of another audit, taken at 50.000 s instead of 51.000 s" in said


def test_without_its_file_an_audit_is_judged_by_its_recorded_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded(kept=False)})
    status, said = judge(capsys, results)
    assert status == 0
    assert "note: good: audit 'final' keeps its recorded report: cannot read" in said
    assert "01-final.npz" in said


SCENARIO = """\
name: other
title: Another question
steps:
  - churn: {size: 50%}
  - audit: {name: final, expect: {reported_bytes: "== 0"}}
expect: {reclaimed_bytes: ">= 1"}
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.yaml"
    path.write_text(SCENARIO)
    return path


def test_another_scenario_is_asked_with_the_checks_of_its_audits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, other: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    status, said = judge(capsys, results, "--scenario", other)
    assert status == 1
    assert "at audit 'final': reported_bytes" in said
    other.write_text(SCENARIO.replace("== 0", "> 0"))
    assert judge(capsys, results, "--scenario", other)[0] == 0


def test_another_scenario_is_for_the_runs_of_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, other: Path
) -> None:
    results = write_results(tmp_path / "results", {"other": Recorded(), "good": Recorded()})
    status, said = judge(capsys, results, "--scenario", other)
    assert (status, "1 PASS, 1 FAIL" in said) == (1, True)
    results = write_results(tmp_path / "more", BOTH)
    status, said = judge(capsys, results, "--scenario", other)
    assert status == 2
    assert "has none of the scenarios that were run; it has: other" in said
    assert "runs are of: good, bad" in said


def test_checks_of_the_recorded_audits_are_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Recorded(checks=("reported_bytes: == 0",))
    status, said = judge(capsys, write_results(tmp_path / "results", {"good": run}))
    assert (status, "at audit 'final'" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere"], 2, "nowhere: there is no such directory"),
        (["."], 2, "has no results.jsonl"),
        (["results/good"], 2, "of a single run: name results instead"),
        (["results", "--expect", "reclaimed_byte=> 1"], 2, "did you mean reclaimed_bytes"),
        (["results", "--expect", "x"], 2, "--expect 'x': "),
        (["results", "--expect", "reclaimed_bytes=fine"], 2, "--expect 'reclaimed_bytes=fine'"),
        (["results", "--expect", "= 3"], 2, "write NAME=CONDITION"),
        (["results", "--expect", "before.freed_bytes> 1"], 2, "no audit called 'before'"),
        (
            ["results", "--expect", "rounds>1", "--expect", "rounds<9"],
            2,
            "rounds already has a condition",
        ),
        (["results", "--scenario", "none.yaml"], 2, "none.yaml"),
        (["results", "good"], 2, "good: there is no such directory"),
    ],
)
def test_a_mistake_is_one_message_before_any_table(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    (results / "good").mkdir(exist_ok=True)
    monkeypatch.chdir(results.parent)
    found, said = judge(capsys, *arguments)
    assert found == status
    assert said.startswith("fpr-harness: ")
    assert words in said
    assert "verdict" not in said


def test_a_record_of_another_schema_is_refused(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    first, *rest = lines_of(results)
    rewrite(results, [json.dumps(json.loads(first) | {"schema": 4}) + "\n", *rest])
    status, said = judge(capsys, results)
    assert status == 69
    assert "is of schema 4, written by fpr-harness '0.1.0'" in said


def test_a_record_without_runs_passes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, said = judge(capsys, write_results(tmp_path / "results", {}))
    assert (status, "nothing ran" in said) == (69, True)


OLD_REPRO = """\
#!/bin/sh
if [ "$1" = scenario ]; then cat <<'END_OF_SCENARIO'
name: good
expect:
  reclaimed_fraction: '>= 0.95'
  own_number: '== 0'
balloon:
  free_page_reporting: true
END_OF_SCENARIO
exit
fi
"""


def of_schema_1(results: Path) -> None:
    """Take from the record what schema 1 had not."""
    lines = [json.loads(line) for line in lines_of(results)]
    for line in lines:
        for added in ("schema", "harness", "plan", "build"):
            line.pop(added, None)
    rewrite(results, [json.dumps(line) + "\n" for line in lines])


def test_results_of_schema_1_are_judged_by_the_scenario_in_repro_sh(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    of_schema_1(results)
    (results / "good" / "repro.sh").write_text(OLD_REPRO)
    status, said = judge(capsys, results)
    assert status == 69, "a number that no step took is no mistake of the scenario's"
    assert "own_number" in said
    assert "note: results of schema 1" in said
    (results / "good" / "repro.sh").write_text(OLD_REPRO.replace("  own_number: '== 0'\n", ""))
    assert judge(capsys, results)[0] == 0


@pytest.mark.parametrize("repro", [None, "", OLD_REPRO.replace("expect:", "expect: [")])
def test_results_of_schema_1_without_their_scenario_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, repro: str | None, other: Path
) -> None:
    results = write_results(tmp_path / "results", {"good": Recorded()})
    of_schema_1(results)
    if repro is not None:
        (results / "good" / "repro.sh").write_text(repro)
    status, said = judge(capsys, results)
    assert status == 69
    assert "the expectations of run good are neither in its results nor in its repro.sh" in said
    assert judge(capsys, results, "--scenario", other)[0] == 1, "a scenario can be named"
