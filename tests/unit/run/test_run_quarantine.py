# SPDX-License-Identifier: Apache-2.0
"""Runs in quarantine go on and are shown; the exit status leaves them out, until a day."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from recorded_runs import FAILED, PASSED

from harness.cli.main import main
from harness.errors import ScenarioFileError
from harness.record.asked import Asked
from harness.record.events import Event, RunStarted
from harness.record.facts import Verdict
from harness.record.run_plan import Quarantined, RunPlan
from harness.report.exported import ExportedRun
from harness.report.github import annotations
from harness.report.junit import write_junit
from harness.report.ktap import as_ktap
from harness.report.summary import RunSummary, build_summary, status_of, write_summary
from harness.report.terminal import print_table
from harness.report.tmt import as_tmt
from harness.run.quarantine import load_quarantine

TODAY = datetime.date(2026, 11, 27)
KNOWN = Quarantined("Ada <ada@example.org>", "https://bugs.example.org/1", "2026-12-31")

ENTRY = """\
  - scenario: suspend-*
    image: trixie
    kernel: 6.12.*
    owner: Ada <ada@example.org>
    link: https://bugs.example.org/1
    expires: {expires}
"""


def a_file(directory: Path, *entries: str) -> Path:
    path = directory / "quarantine.yaml"
    path.write_text("quarantine:\n" + ("".join(entries) or "  []\n"))
    return path


def entry(expires: str = "2026-12-31") -> str:
    return ENTRY.format(expires=expires)


@pytest.mark.parametrize(
    ("scenario", "image", "kernel", "holds"),
    [
        ("suspend-resume-s3", "trixie", "6.12.101-cloud-amd64", True),
        ("suspend-resume-s3", "bookworm", "6.12.101", False),
        ("suspend-resume-s3", "trixie", "6.13.0", False),
        ("suspend-resume-s3", "trixie", None, False),
        ("reclaim-basic", "trixie", "6.12.101", False),
    ],
)
def test_an_entry_holds_where_all_its_patterns_match(
    tmp_path: Path, scenario: str, image: str, kernel: str | None, holds: bool
) -> None:
    found = load_quarantine(a_file(tmp_path, entry()), TODAY).of(scenario, image, kernel)
    assert found == (KNOWN if holds else None)


def test_without_image_and_kernel_it_holds_for_all(tmp_path: Path) -> None:
    lines = entry().splitlines(keepends=True)
    short = "".join(line for line in lines if "image" not in line and "kernel" not in line)
    found = load_quarantine(a_file(tmp_path, short), TODAY)
    assert found.of("suspend-x", "sid", None) == KNOWN


def test_it_holds_to_the_end_of_its_last_day(tmp_path: Path) -> None:
    path = a_file(tmp_path, entry("2026-11-27"))
    assert load_quarantine(path, TODAY).entries
    with pytest.raises(ScenarioFileError, match="expired on 2026-11-27"):
        load_quarantine(path, TODAY + datetime.timedelta(days=1))


def test_every_entry_that_expired_is_named_with_its_line_and_owner(tmp_path: Path) -> None:
    path = a_file(tmp_path, entry("2026-11-01"), entry(), entry("2025-01-01"))
    with pytest.raises(ScenarioFileError) as refused:
        load_quarantine(path, TODAY)
    first, second = str(refused.value).splitlines()
    assert ":7: quarantine[0].expires: expired on 2026-11-01: suspend-* is Ada" in first
    assert ":19: quarantine[2].expires: expired on 2025-01-01" in second


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("  - {scenario: x, link: 'https://x', expires: 2027-01-01}\n", "quarantine[0].owner"),
        ("  - {scenario: x, owner: a, expires: 2027-01-01}\n", "quarantine[0].link"),
        ("  - {scenario: x, owner: a, link: 'https://x'}\n", "quarantine[0].expires"),
        (entry("some day"), "quarantine[0].expires"),
        (entry("2027-13-01"), "quarantine[0].expires"),
        (entry("1798761600"), "must be a day such as 2027-01-31, not 1798761600"),
        (entry("2027-01-01T10:00:00"), "must be a day such as 2027-01-31"),
        (entry() + "    until: 3\n", "until"),
        (entry().replace("https://", "bug "), "quarantine[0].link"),
        ("  - suspend-*\n", "quarantine[0]"),
        ("  x: [\n", "not YAML"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, entry: str, words: str) -> None:
    with pytest.raises(ScenarioFileError) as refused:
        load_quarantine(a_file(tmp_path, entry), TODAY)
    assert words in str(refused.value)


def test_an_empty_list_is_a_file(tmp_path: Path) -> None:
    assert load_quarantine(a_file(tmp_path), TODAY).entries == ()


def a_run(verdict: Verdict, known: Quarantined | None = None) -> RunSummary:
    return RunSummary("r", "r", "bookworm", 1, verdict=verdict, quarantine=known)


@pytest.mark.parametrize(
    ("counted", "known", "status"),
    [
        ([Verdict.PASS], [Verdict.FAIL, Verdict.ERROR, Verdict.MISS], 0),
        ([Verdict.FAIL], [Verdict.FAIL], 1),
        ([Verdict.MISS], [Verdict.FAIL], 69),
        ([Verdict.SKIP], [Verdict.PASS], 77),
        ([], [Verdict.PASS], 69),
    ],
)
def test_what_is_in_quarantine_neither_fails_a_night_nor_makes_it_green(
    counted: Sequence[Verdict], known: Sequence[Verdict], status: int
) -> None:
    runs = [*map(a_run, counted), *(a_run(verdict, KNOWN) for verdict in known)]
    assert status_of(runs) == status


def in_quarantine(lines: Sequence[tuple[str, Event]]) -> list[tuple[str, Event]]:
    """The lines of a run, as if it had been found in quarantine."""
    plan = RunPlan({}, Asked(expect={}), quarantine=KNOWN)
    return [
        (run, replace(event, plan=plan) if isinstance(event, RunStarted) else event)
        for run, event in lines
    ]


def test_every_output_shows_it_and_who_sees_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [*PASSED, *in_quarantine(FAILED)]
    summary = build_summary(events)
    print_table(summary, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "FAIL acked-not-discarded, in quarantine" in said
    assert "in quarantine until 2026-12-31 (Ada <ada@example.org>, https://bugs" in said
    assert "1 PASS, and in quarantine 1 FAIL" in said

    write_summary(summary, tmp_path / "summary.json")
    plain = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert ("quarantine" in plain[0], plain[1]["quarantine"]["expires"]) == (False, "2026-12-31")

    write_junit(events, tmp_path / "junit.xml")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    (skipped,) = suite.iter("skipped")
    assert "in quarantine until 2026-12-31" in skipped.get("message", "")

    assert annotations(summary.runs).startswith("::notice title=FAIL acked-not-discarded partial")


def test_an_entry_that_expired_is_bad_usage_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quarantine", str(a_file(tmp_path, entry("2026-01-01")))]
    words += ["--results", str(tmp_path / "results")]
    assert main(["run", "reclaim-basic", *words]) == 2
    assert "expired on 2026-01-01" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_kernels_formats_and_tmt_take_it_for_an_expected_failure(tmp_path: Path) -> None:
    (summary,) = build_summary(in_quarantine(FAILED)).runs
    began = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    run = ExportedRun("r", summary, tmp_path, began, "", "", (), ())
    last = as_ktap([run]).splitlines()[-1]
    assert last.startswith("not ok 1 r # XFAIL in quarantine until 2026-12-31 (Ada")
    (result,) = yaml.safe_load(as_tmt([run]))
    assert result["result"] == "warn"
    assert any("in quarantine until 2026-12-31" in note for note in result["note"])
