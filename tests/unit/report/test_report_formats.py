# SPDX-License-Identifier: Apache-2.0
"""`export`: each format is what its own consumer reads, whatever a guest has said."""

import datetime
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import kcidb_io
import pytest
import yaml
from judging import RECLAIM
from prometheus_client.parser import text_string_to_metric_families
from results_builders import Recorded, write_results
from run_builders import healthy

from harness.cli.main import main
from harness.kernel.pages import GuestState, HostState
from harness.record.events import ConsoleFinding
from harness.record.facts import Cause, Verdict
from harness.report.expected import Expected
from harness.report.exported import ExportedRun, collect
from harness.report.github import (
    MOST_ANNOTATIONS,
    MOST_SUMMARY_BYTES,
    annotations,
    commands_stopped,
    step_summary,
    tell_github,
)
from harness.report.kcidb import as_kcidb
from harness.report.ktap import as_ktap
from harness.report.prometheus import as_prometheus
from harness.report.summary import RunSummary, Summary
from harness.report.tmt import as_tmt
from harness.units import MIB

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)

HOSTILE = (
    'x # SKIP\n::error::y\r\n1..9\nok 1 z\n# Subtest: z\n"}\\ | <b>@a</b> %0A \x1b[2J\x00\udcff'
)
"""What a guest could say to be taken for something else."""

PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs"

PASSED = RunSummary(
    "reclaim-basic#1",
    "reclaim-basic",
    "bookworm",
    1,
    kernel="6.1.0-50-cloud-amd64",
    accel="tcg",
    qemu="7.2.22",
    verdict=Verdict.PASS,
    reason="every expectation holds",
    seconds=24.0,
    measures={"freed_bytes": 512.0 * MIB, "reclaimed_bytes": 486.0 * MIB, "settle_seconds": 9.5},
    answer={"settle_t90_seconds": 4.0},
)
HOLDS = Expected("reclaimed_bytes", ">= 0.9 * freed_bytes", "486MiB", failed=False, held=True)
FAILS = Expected("lazyfree_bytes", "== 0", "254MiB", failed=True, held=False)
UNKNOWN = Expected("after.held_bytes", "<= 1MiB", "", failed=False, held=False)


def exported(summary: RunSummary = PASSED, *expected: Expected, finding: str = "") -> ExportedRun:
    found = (ConsoleFinding(9.0, "crash", finding, finding),) if finding else ()
    return ExportedRun(
        summary.run_id, summary, Path("results"), BEGAN, "#1 SMP", "v6.19-rc1", expected, found
    )


FAILED = replace(
    PASSED, run_id="lazy", verdict=Verdict.FAIL, cause=Cause.LAZILY_FREE, reason="254MiB are #lazy"
)
SKIPPED = replace(
    PASSED,
    run_id="swap",
    verdict=Verdict.SKIP,
    reason="no swap",
    kernel=None,
    accel=None,
    qemu=None,
    measures={},
)
MISSED = replace(PASSED, run_id="lost", verdict=Verdict.MISS, reason="QEMU ended", hint="look")


def hostile(verdict: Verdict) -> ExportedRun:
    summary = replace(
        PASSED,
        run_id=f"{verdict} {HOSTILE}",
        kernel=HOSTILE,
        qemu=HOSTILE,
        verdict=verdict,
        reason=HOSTILE,
        hint=HOSTILE,
        failed=(HOSTILE,),
    )
    return exported(summary, HOLDS, finding=f"{HOSTILE}\n{PANIC}")


# --- KTAP ----------------------------------------------------------------------------------------


def test_ktap_is_what_the_kernels_parser_took_it_for() -> None:
    """`kunit.py parse` of 6.1 said of it: 8 tests, passed: 3, failed: 3, skipped: 2."""
    runs = [exported(PASSED, HOLDS), exported(FAILED, HOLDS, FAILS, UNKNOWN), exported(SKIPPED)]
    document = as_ktap([*runs, exported(MISSED)])
    assert re.sub(r"fpr-harness \S+", "fpr-harness V", document) == (
        Path(__file__).parents[2] / "data" / "formats" / "runs.ktap"
    ).read_text(encoding="utf-8")


_LINES = re.compile(
    r" *(KTAP version 1|1\.\.\d+|# Subtest: [^#]*|# [^ ]+.*|(not )?ok \d+ [^#]+( # .*)?)"
)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_guest_adds_no_tests_and_skips_none(verdict: Verdict) -> None:
    lines = as_ktap([hostile(verdict)]).splitlines()
    for line in lines:
        assert _LINES.fullmatch(line), line
        assert "syncing: VFS:" not in line, "kunit_parser.py would stop reading here"
    results = [line for line in lines if re.match(r" *(not )?ok ", line)]
    assert len(results) == (1 if verdict is Verdict.SKIP else 3)
    assert sum(" # SKIP" in line for line in results) == (verdict is Verdict.SKIP)
    assert sum(line.startswith("  # Subtest:") for line in lines) == (verdict is not Verdict.SKIP)
    bad = verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.MISS)
    assert results[-1].startswith("not ok" if bad else "ok")


# --- Prometheus ----------------------------------------------------------------------------------


def test_prometheus_reads_every_measure_and_the_verdict_of_the_latest_run() -> None:
    newer = replace(exported(FAILED), began=BEGAN + datetime.timedelta(hours=1))
    older = exported(replace(PASSED, run_id="lazy"))
    families = {
        family.name: family
        for family in text_string_to_metric_families(as_prometheus([newer, older]))
    }
    verdicts = {
        sample.labels["verdict"]: sample.value for sample in families["fpr_run_verdict"].samples
    }
    assert verdicts == {str(word): float(word is Verdict.FAIL) for word in Verdict}
    (freed,) = families["fpr_freed_bytes"].samples
    assert freed.value == 512 * MIB
    assert freed.labels["kernel"] == "6.1.0-50-cloud-amd64"
    (start,) = families["fpr_run_start_time_seconds"].samples
    assert start.value == BEGAN.timestamp() + 3600
    assert families["fpr_settle_seconds"].documentation


def test_a_guest_adds_no_metric_and_an_absent_measure_is_no_zero() -> None:
    text = as_prometheus([hostile(Verdict.PASS), exported(SKIPPED)])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("fpr_") for name in families)
    assert len(families["fpr_freed_bytes"].samples) == 1
    assert len(families["fpr_run_verdict"].samples) == 2 * len(Verdict)


# --- KCIDB ---------------------------------------------------------------------------------------


def test_kcidb_takes_the_report() -> None:
    runs = [exported(), exported(FAILED, FAILS, finding=PANIC), exported(SKIPPED)]
    runs += [hostile(verdict) for verdict in Verdict]
    document = json.loads(as_kcidb(runs, "my_ci"))
    kcidb_io.schema.LATEST.validate(document)
    assert [test["status"] for test in document["tests"][:3]] == ["PASS", "FAIL", "SKIP"]
    first = document["tests"][0]
    assert first["path"] == "fpr-harness.reclaim-basic"
    assert first["number"] == {"value": 4.0, "unit": "s", "prefix": "metric"}
    assert first["misc"]["measures"]["freed_bytes"] == 512 * MIB
    assert len({test["id"] for test in document["tests"]}) == len(runs)
    assert {test["build_id"] for test in document["tests"]} == {
        build["id"] for build in document["builds"]
    }


# --- tmt -----------------------------------------------------------------------------------------


def test_tmt_has_a_result_for_each_run_with_its_reason() -> None:
    runs = [exported(), exported(FAILED), exported(SKIPPED), exported(MISSED)]
    runs.append(hostile(Verdict.DONE))
    results = yaml.safe_load(as_tmt(runs))
    assert [each["result"] for each in results] == ["pass", "fail", "skip", "error", "info"]
    assert results[1]["note"] == ["FAIL lazily-free: 254MiB are #lazy"]
    assert results[1]["name"] == "/lazy"
    assert results[1]["duration"] == "00:00:24"


# --- GitHub --------------------------------------------------------------------------------------


def test_annotations_say_what_did_not_pass_on_one_line_each() -> None:
    told = annotations([PASSED, FAILED, SKIPPED, MISSED])
    assert told == (
        "::error title=FAIL lazily-free lazy (6.1.0-50-cloud-amd64%2C tcg)::254MiB are #lazy\n"
        "::warning title=MISS lost (6.1.0-50-cloud-amd64%2C tcg)::QEMU ended%0Alook\n"
    )
    (line,) = annotations([hostile(Verdict.FAIL).summary]).splitlines()
    title, _, message = line.removeprefix("::error title=").partition("::")
    assert ":" not in title
    assert "%250A" in message


def test_more_than_github_shows_are_counted() -> None:
    told = annotations([FAILED] * 12).splitlines()
    assert len(told) == MOST_ANNOTATIONS
    assert told[-1].endswith("::3 more runs did not pass; see the summary of the step")


def test_the_summary_is_a_table_without_markup_of_a_guests_own() -> None:
    told = step_summary(Summary((PASSED, hostile(Verdict.FAIL).summary)))
    assert told.startswith("### fpr-harness: 1 PASS, 1 FAIL\n")
    assert "<b>" not in told
    assert "@a" not in told
    rows = [line for line in told.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    many = step_summary(Summary((replace(PASSED, run_id="r" * 1000),) * 2000))
    assert len(many.encode()) < MOST_SUMMARY_BYTES
    assert "more are in summary.json" in many


def test_github_is_told_only_in_its_own_jobs_and_obeys_nothing_in_between(tmp_path: Path) -> None:
    silent = io.StringIO()
    with commands_stopped(silent, {}):
        tell_github(Summary((FAILED,)), silent, {})
    assert not silent.getvalue()
    output, summary = io.StringIO(), tmp_path / "summary"
    job = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    with commands_stopped(output, job):
        output.write("::error::made up")
    tell_github(Summary((FAILED,)), output, job)
    first, made_up, resumed, told = output.getvalue().splitlines()
    assert first.startswith("::stop-commands::")
    assert resumed == f"::{first.removeprefix('::stop-commands::')}::"
    assert (made_up, told[:8]) == ("::error::made up", "::error ")
    assert "1 FAIL" in summary.read_text()


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lost = healthy().blocks(18, 1, GuestState.HELD, HostState.ABSENT)
    runs = {
        "whole": Recorded(checks=("reclaimed_fraction: >= 0.9",)),
        "lost": Recorded({"final": lost}, expect={**RECLAIM, "held_absent_bytes": "== 0"}),
        "cut": Recorded(verdict=False),
    }
    return write_results(tmp_path_factory.mktemp("formats") / "results", runs)


def test_no_expectation_is_called_met_that_is_not(results: Path) -> None:
    """The verdict of lost data names no expectation that failed."""
    runs = {run.name: run for run in collect([results])}
    assert runs["lost"].summary.cause is Cause.DATA_LOSS
    (held,) = (each for each in runs["lost"].expected if each.measure == "held_absent_bytes")
    assert held.failed
    assert all(expected.held for expected in runs["whole"].expected)
    assert runs["whole"].expected[-1].measure == "final.reclaimed_fraction"
    assert not any(expected.held for expected in runs["cut"].expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ktap", "KTAP version 1\n1..3\n"),
        ("prometheus", "# HELP fpr_run_verdict "),
        ("markdown", "### fpr-harness: "),
        ("github", "::error title=FAIL "),
        ("kcidb", "{"),
        ("tmt", "- name: /whole\n  result: pass\n"),
    ],
)
def test_each_format_is_printed_or_written(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    command = ["export", str(results), "--format", name, "--origin", "my_ci"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(words)
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text() == printed


def test_a_report_for_kcidb_needs_an_origin_and_a_record_is_not_replaced(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(results), "--format", "kcidb"]) == 2
    assert "--origin" in capsys.readouterr().err
    record = results / "results.jsonl"
    assert main(["export", str(results), "--format", "ktap", "--output", str(record)]) == 2
    assert main(["export", str(results / "none"), "--format", "ktap"]) == 2
