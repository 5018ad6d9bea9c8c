# SPDX-License-Identifier: Apache-2.0
"""A mail to a kernel list says all that it takes to see the bug, in 75 columns."""

from dataclasses import replace
from pathlib import Path

import pytest
from judging import RECLAIM
from results_builders import Recorded, write_results
from run_builders import healthy

from harness.cli.main import main
from harness.machine.console import ConsoleScanner
from harness.record.events import ConsoleFinding
from harness.record.facts import Cause, Verdict
from harness.record.recorded_run import read_runs
from harness.report.exported import collect
from harness.report.mail import COLUMNS, Case, alike, compose

KASAN = Path(__file__).parents[2] / "data" / "console" / "kasan-use-after-free.log"
TRACE = "BUG: KASAN: use-after-free in virtballoon_freeze\n" + " frame+0x12/0x34 " * 8


@pytest.fixture
def case(tmp_path: Path) -> Case:
    results = write_results(tmp_path / "results", {"reclaim": Recorded(expect=RECLAIM)})
    (run,), (facts,) = read_runs(results), collect([results])
    assert run.started.plan is not None
    plan = replace(
        run.started.plan,
        scenario={"name": "reclaim", "title": "Freed memory goes back", "about": "a story"},
        kernel_config={"PAGE_REPORTING": "y", "KASAN": "y", "SOUND": "m"},
    )
    summary = replace(
        facts.summary,
        verdict=Verdict.FAIL,
        cause=Cause.KERNEL_WARNING,
        reason="the console shows a warning",
        kernel="7.3.0-rc7",
    )
    return Case(
        replace(run, started=replace(run.started, plan=plan)),
        replace(
            facts,
            summary=summary,
            commit="v7.3-rc7-12-gabcdef012345-dirty",
            findings=(ConsoleFinding(1.0, "warning", TRACE.splitlines()[0], TRACE),),
        ),
        steps=["wait until the host holds no more than is used", "free everything " * 9],
        guest="1GiB, 2 vCPUs",
        failed=3,
        judged=10,
    )


def test_it_says_all_that_a_maintainer_asks_for(case: Case) -> None:
    text = compose(case)
    assert text.startswith(
        "Subject: free page reporting: reclaim: BUG: KASAN: use-after-free in virtballoon_freeze "
        "on Linux 7.3.0-rc7\n\n"
    )
    for part in (
        "Commit:  v7.3-rc7-12-gabcdef012345-dirty",
        "Config:  PAGE_REPORTING=y KASAN=y\n",
        "1. wait until the host holds no more than is used",
        "Expected\n--------\n- reclaimed_fraction >= ",
        "FAIL kernel-warning: the console shows a warning.",
        "In 3 of 10 runs.",
        "fpr-harness run ./reclaim.yaml",
        "BUG: KASAN: use-after-free in virtballoon_freeze",
        "title: Freed memory goes back",
    ):
        assert part in text
    assert "a story" not in text


def test_a_report_of_kasan_is_whole_and_names_who_freed_the_memory(case: Case) -> None:
    scanner = ConsoleScanner()
    scanner.feed(KASAN.read_bytes())
    scanner.finish()
    kasan, lockup = (ConsoleFinding(1.0, f.severity, f.title, f.text) for f in scanner.findings)
    summary = replace(case.facts.summary, cause=Cause.GUEST_HANG, reason=lockup.title)
    found = replace(case.facts, summary=summary, findings=(kasan, lockup))
    text = compose(replace(case, facts=found))
    assert text.startswith(f"Subject: free page reporting: reclaim: {kasan.title} on Linux")
    assert " virtballoon_freeze+0x20/0x30\n" in text.partition("Freed by task 8:")[2]
    assert "more lines in console.log" not in text
    assert lockup.text not in text
    assert max(map(len, text.splitlines()[1:])) <= COLUMNS


def test_a_long_line_of_the_console_is_continued_between_words(case: Case) -> None:
    place = "(drivers/virtio/virtio_ring.c:2111 drivers/virtio/virtio_ring.c:2191)"
    finding = replace(case.facts.findings[0], text=f" ? virtqueue_add_inbuf {place}")
    text = compose(replace(case, facts=replace(case.facts, findings=(finding,))))
    assert (
        "\n ? virtqueue_add_inbuf (drivers/virtio/virtio_ring.c:2111\n"
        "    drivers/virtio/virtio_ring.c:2191)\n"
    ) in text


def test_no_line_is_longer_than_75_columns(case: Case) -> None:
    _subject, *lines = compose(case).splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert compose(case).count("frame+0x12/0x34") > 6, "the console is continued, not cut"


def test_only_runs_of_one_kernel_and_scenario_that_could_look_are_counted(case: Case) -> None:
    fail = case.facts
    others = [
        replace(fail, summary=replace(fail.summary, **change))
        for change in (
            {"verdict": Verdict.PASS, "cause": None},
            {"verdict": Verdict.MISS, "cause": None},
            {"cause": Cause.GUEST_CRASH},
            {"kernel": "6.1"},
        )
    ]
    assert alike([fail, *others], fail) == (1, 3)


def test_without_a_failure_there_is_nothing_to_mail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_results(tmp_path / "results", {"one": Recorded({"final": healthy()})})
    assert main(["mail", str(results)]) == 2
    assert "failed: there is nothing to report" in capsys.readouterr().err
    assert main(["mail", str(results), "other"]) == 2
    assert "has no run called other" in capsys.readouterr().err
    assert main(["mail", str(results), "one"]) == 0
    assert capsys.readouterr().out.startswith("Subject: free page reporting: one: ")


@pytest.mark.parametrize(
    ("old", "new", "status", "told"),
    [
        ('"scenario": {', '"scenario": {"steps": null, ', 0, "Subject: "),
        ('"wall": "', '"wall": "0001-01-01T00:00:00+23:59", "was": "', 69, "run one: date value"),
        ('"wall": "', '"wall": "9999-12-31T23:59:59-23:00", "was": "', 69, "run one: date value"),
    ],
)
def test_a_record_that_another_program_wrote_is_no_defect_of_the_harness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, status: int, told: str
) -> None:
    results = write_results(tmp_path / "results", {"one": Recorded({"final": healthy()})})
    record = results / "results.jsonl"
    assert old in record.read_text()
    record.write_text(record.read_text().replace(old, new))
    assert main(["mail", str(results), "one"]) == status
    said = capsys.readouterr()
    assert told in (said.out if status == 0 else said.err)
    assert "bug of its own" not in said.err
