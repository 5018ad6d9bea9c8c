# SPDX-License-Identifier: Apache-2.0
"""What a person sees while runs go on, and at their end."""

import io
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import ALL, FAILED, KERNEL, PASSED, started

from harness.deadline import Deadline, wait_for
from harness.record.events import ConsoleFinding, Judged, PhaseStarted, Sample
from harness.record.facts import Cause, Verdict
from harness.report.progress import ProgressView
from harness.report.screen import make_console
from harness.report.summary import RunSummary, Summary, build_summary
from harness.report.terminal import _WHERE_TO_LOOK, print_table
from harness.resources import SCENARIOS_DIR
from harness.units import MIB

GOLDEN = """\
scenario  kernel    verdict                    freed   reclaimed  settle
basic     6.1.0-50  PASS                      512MiB  486MiB 95%    9.5s
partial   6.1.0-50  FAIL acked-not-discarded       -           -       -
repeat    -         MISS, attempt 2                -           -       -
numa      -         SKIP                           -           -       -
cut       6.1.0-50  MISS                           -           -       -

SKIP numa
  the guest's kernel has no NUMA
  what to do: use an image with NUMA

MISS repeat
  QEMU ended at once
  what to do: read qemu.log

MISS cut
  the record ends before a verdict: the harness was killed, or could not write more

FAIL acked-not-discarded partial
  258MiB that the guest reported stayed with the host\ufffd[31m
  what to do: see discards.log for what QEMU discarded, and qemu.log for errors; repro.sh boots the
  same guest by hand
  evidence: RESULTS/partial/

1 PASS, 1 FAIL, 2 MISS, 1 SKIP under tcg; evidence in RESULTS/<scenario>/"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def table(summary: Summary, file: io.StringIO | None = None) -> str:
    file = file or io.StringIO()
    print_table(summary, Path("results/now"), file)
    return file.getvalue()


def test_the_table_says_verdicts_and_figures_and_then_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "basic").mkdir()
    file = io.StringIO()
    print_table(build_summary(ALL), tmp_path, file)
    seen = "\n".join(line.rstrip() for line in file.getvalue().splitlines())
    assert seen.replace(str(tmp_path), "RESULTS") == GOLDEN


def ended(name: str, verdict: Verdict, **more: Any) -> RunSummary:
    return RunSummary(name, name, "debian-12", 1, KERNEL, "tcg", verdict=verdict, **more)


@pytest.mark.parametrize("width", [20, 80])
def test_no_name_is_folded_and_sentences_keep_to_the_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    measures = {"freed_bytes": 1023.0 * MIB, "reclaimed_bytes": 1023.0 * MIB}
    measures |= {"reclaimed_fraction": 1.0, "settle_seconds": 100.5}
    reason = "a reason that is rather long, as reasons are when they name bytes and zones " * 2
    runs = tuple(
        ended(f"{'long-' * 9}{cause}", Verdict.FAIL, cause=cause, reason=reason, measures=measures)
        for cause in Cause
    )
    lines = table(Summary(runs)).splitlines()
    rows = lines[1 : len(runs) + 1]
    for run, row in zip(runs, rows, strict=True):
        assert f"{run.run_id} " in row
        assert row.split()[-3:] == ["1023MiB", "100%", "100.5s"]
        assert f"FAIL {run.cause} {run.run_id}" in lines
    told = [line for line in lines if "reason that" in line or "as reasons are" in line]
    assert told
    assert max(map(len, told)) <= width


def test_more_than_was_freed_is_no_share_of_it_and_is_explained() -> None:
    measures = {"freed_bytes": 512.0 * MIB, "reclaimed_bytes": 983.0 * MIB}
    run = ended("a", Verdict.PASS, measures=measures | {"reclaimed_fraction": 983 / 512})
    shown = table(Summary((run,)))
    assert "983MiB >100%" in shown
    assert ">100%: the guest also gave back what was free before the latest free" in shown
    assert "192%" not in shown


def test_under_which_accelerator_is_told_once_unless_it_differs() -> None:
    runs = (ended("a", Verdict.PASS), replace(ended("b", Verdict.PASS), accel="kvm"))
    lines = table(Summary(runs)).splitlines()
    assert lines[0].split() == "scenario kernel accel verdict freed reclaimed settle".split()
    assert [line.split()[2] for line in lines[1:3]] == ["tcg", "kvm"]
    assert "under" not in lines[-1]
    assert "accel" not in table(Summary(runs[:1]))
    assert "1 PASS under tcg; evidence" in table(Summary(runs[:1]))
    assert "1 MISS; evidence" in table(Summary((RunSummary("c", "c", "i", 1),)))
    clocks = (runs[0], replace(runs[0], clock="virtual"))
    shown = table(Summary(clocks)).splitlines()
    assert ["virtual clock" in line for line in shown[1:3]] == [False, True]
    assert "1 PASS under tcg, virtual clock; evidence" in table(Summary(clocks[1:]))


def test_what_is_gravest_stands_last() -> None:
    verdicts = (Verdict.FAIL, Verdict.MISS, Verdict.PASS, Verdict.SKIP, Verdict.ERROR)
    runs = tuple(ended(f"run-{verdict}", verdict, reason=f"of {verdict}") for verdict in verdicts)
    lines = table(Summary(runs)).splitlines()
    told = [line for line in lines if re.fullmatch(r"[A-Z]+ run-[A-Z]+", line)]
    assert told == ["SKIP run-SKIP", "MISS run-MISS", "ERROR run-ERROR", "FAIL run-FAIL"]


def test_every_expectation_that_failed_is_told_once() -> None:
    sentences = ("reclaimed_bytes 2MiB, expected >= 3MiB", "rounds 1, expected == 5")
    reason = f"it stayed: {sentences[0]}; also failed: rounds"
    run = ended("a", Verdict.FAIL, cause=Cause.NOT_REPORTED, reason=reason, failed=sentences)
    lines = table(Summary((run,))).splitlines()
    at = lines.index(f"  {reason}")
    assert lines[at + 1] == f"  failed: {sentences[1]}"
    assert lines[at + 2].startswith("  what to do: ")


def test_runs_that_say_the_same_are_told_together(tmp_path: Path) -> None:
    same = "the host has no free swap (swapon(8))"
    runs = tuple(ended(name, Verdict.SKIP, reason=same) for name in ("a", "b", "c"))
    other = ended("d", Verdict.SKIP, reason="another reason")
    for run in (*runs[1:], other):
        (tmp_path / run.run_id).mkdir()
    file = io.StringIO()
    print_table(Summary((runs[0], other, *runs[1:])), tmp_path, file)
    lines = file.getvalue().splitlines()
    at = lines.index("SKIP a, b, c")
    assert lines[at + 1 : at + 3] == [f"  {same}", f"  evidence: {tmp_path}/b/ and 1 more"]
    assert lines.count(f"  {same}") == 1
    at = lines.index("SKIP d")
    assert lines[at + 1 : at + 3] == ["  another reason", f"  evidence: {tmp_path}/d/"]


def test_runs_that_somebody_stopped_are_one_block() -> None:
    stopped = tuple(
        ended(name, Verdict.MISS, reason=f"stopped in step {name}", interrupted=True)
        for name in ("a", "b")
    )
    lost = ended("c", Verdict.FAIL, cause=Cause.DATA_LOSS, reason="lost", interrupted=True)
    lines = table(Summary((*stopped, lost))).splitlines()
    assert lines.count("MISS 2 runs: stopped on request") == 1
    assert not any("stopped in step" in line for line in lines)
    assert "FAIL data-loss c" in lines, "what was found before it was stopped still counts"
    assert "MISS 1 run: stopped on request" in table(Summary(stopped[:1]))


def test_runs_that_never_came_to_anything_are_counted_where_they_are_many() -> None:
    def stopped(number: int, kernel: str | None) -> RunSummary:
        run = ended(f"r{number}", Verdict.MISS, reason="stopped", interrupted=True)
        return replace(run, kernel=kernel)

    few = table(Summary(tuple(stopped(number, None) for number in range(10))))
    assert all(f"r{number} " in few for number in range(10))
    many = [stopped(number, None) for number in range(11)]
    text = table(Summary((*many, stopped(11, KERNEL))))
    assert [line.split()[0] for line in text.splitlines() if line.startswith("r")] == ["r11"]
    assert "MISS 12 runs: stopped on request, 11 of them before their guests were ready" in text
    assert "12 MISS" in text


def test_every_cause_has_a_place_to_look() -> None:
    assert set(_WHERE_TO_LOOK) == set(Cause)


def test_the_document_on_fails_says_the_same_of_every_cause() -> None:
    text = (SCENARIOS_DIR.parent / "docs" / "reading-a-fail.md").read_text(encoding="utf-8")
    rows = [line.replace("`", "").split(" | ") for line in text.splitlines()]
    told = {row[0].removeprefix("| "): row[2] for row in rows if len(row) == 3}
    for cause, where in _WHERE_TO_LOOK.items():
        assert told[cause].startswith(where.replace("`", ""))


@pytest.mark.parametrize("width", ["0", "1"])
def test_a_width_of_nothing_hides_nothing(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    output = io.StringIO()
    make_console(output).print("three words here")
    assert output.getvalue().split() == ["three", "words", "here"]


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = build_summary(FAILED)
    assert "\x1b" not in table(summary)
    assert "\x1b[1;31mFAIL" in table(summary, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", table(summary, Terminal()))


def test_without_a_terminal_each_phase_is_a_line_and_long_ones_are_told_every_10_s() -> None:
    file = io.StringIO()
    with ProgressView(total=2, file=file) as view:
        view.note("building debian-12")
        for run_id, event in PASSED:
            view.feed(run_id, event)
    assert file.getvalue().splitlines() == [
        "building debian-12",
        "    0.1s  basic  boot debian-12",
        "    4.0s  basic  ready 6.1.0-50-cloud-amd64 under tcg",
        "    5.0s  basic  churn writing 512MiB",
        "   12.1s  basic  settle at most 60 s",
        "   22.5s  basic  settle at most 60 s: 474MiB back, host holds 300MiB",
        "   22.0s  basic  settle drained after 9.5 s: 486MiB back, host holds 288MiB",
        "   24.0s  [1/2] PASS  basic",
    ]


def test_a_run_that_is_tried_again_counts_once() -> None:
    file = io.StringIO()
    view = ProgressView(total=2, file=file, live=False)
    view.feed("x", started("x"))
    view.feed("x", Judged(3.0, Verdict.MISS, None, "the guest crashed during boot", {}))
    view.feed("x", started("x", attempt=2))
    view.feed("x", Judged(9.0, Verdict.PASS, None, "all hold", {}))
    ends = [line for line in file.getvalue().splitlines() if "[" in line]
    assert [line.split()[1:3] for line in ends] == [["[1/2]", "MISS"], ["[1/2]", "PASS"]]


def test_a_terminal_has_one_line_for_each_running_run() -> None:
    view = ProgressView(file=Terminal(), live=False)
    for run_id, event in [*PASSED[:8], ("other", started("other"))]:
        view.feed(run_id, event)
    lines = view._render().plain.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "18s basic settle at most 60 s 374MiB back ████████████▅",
        "0s other starting",
    ]


def test_the_live_view_ends_and_leaves_only_what_is_worth_keeping() -> None:
    before = threading.active_count()
    file = Terminal()
    with ProgressView(total=1, file=file) as view:
        for run_id, event in PASSED:
            view.feed(run_id, event)
    assert "[1/1]" in file.getvalue()
    assert "PASS" in file.getvalue()
    over = Deadline(5, "the end of the drawing thread")
    wait_for(lambda: True if threading.active_count() == before else None, over)


def test_trouble_on_the_console_is_told_when_it_is_seen() -> None:
    file = io.StringIO()
    view = ProgressView(file=file)
    view.feed("x", started("x"))
    view.feed("x", ConsoleFinding(7.0, "crash", "BUG: \x1b[2J null", ""))
    assert file.getvalue() == "    7.0s  x  console: crash: BUG: \ufffd[2J null\n"


def test_many_threads_may_feed_while_the_view_is_drawn() -> None:
    file = Terminal()

    def run(run_id: str) -> None:
        view.feed(run_id, started(run_id))
        for number in range(200):
            view.feed(run_id, Sample(float(number), number * MIB, None, None, None, None))
            view._render()
        view.feed(run_id, Judged(200.0, Verdict.PASS, None, "", {}))

    with ProgressView(total=8, file=file) as view:
        threads = [threading.Thread(target=run, args=(f"r{each}",)) for each in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
            assert not each.is_alive()
    assert "[8/8]" in file.getvalue()


def test_runs_under_both_policies_are_compared() -> None:
    measures = {"settle_seconds": 4.5, "first_fill_page_seconds": 3e-5, "huge_bytes": 6.0 * MIB}
    stock = RunSummary("stock", "stock", "i", 1, discard="dontneed", measures=measures)
    lazy = RunSummary(
        "lazy", "lazy", "i", 1, discard="free", measures={**measures, "refill_page_seconds": 1e-6}
    )
    assert "MADV" not in table(Summary((stock, stock)))
    seen = [line.split() for line in table(Summary((lazy, stock))).splitlines()]
    assert ["MADV_DONTNEED", "stock", "4.5s", "-", "30.0us", "-", "6MiB"] in seen
    assert ["MADV_FREE", "lazy", "4.5s", "-", "30.0us", "1.0us", "6MiB"] in seen


def test_what_a_measurement_took_is_told() -> None:
    run = RunSummary(
        "hit-rate",
        "hit-rate",
        "bookworm",
        1,
        verdict=Verdict.DONE,
        measures={"rounds": 1, "seen_discarded_bytes": 3 * MIB, "seen_reused_5s_fraction": 0.25},
        answer={"seen_discarded_bytes": 3 * MIB, "seen_reused_5s_fraction": 0.25},
    )
    lines = [line.split() for line in table(Summary((run,))).splitlines()]
    assert ["DONE", "hit-rate"] in lines
    assert ["seen_discarded_bytes", "3MiB"] in lines
    assert ["seen_reused_5s_fraction", "0.25"] in lines
    assert not any("rounds" in line for line in lines), "every run has those"
    assert "DONE hit-rate\n" not in table(Summary((replace(run, answer={}),)))


def test_guest_that_is_kept_is_told_whole_and_after_its_verdict() -> None:
    output = io.StringIO()
    login = "ssh -i " + "x" * 200 + " root@127.0.0.1"
    with ProgressView(total=1, file=output, live=False) as view:
        view.feed("a-run", started("a-run"))
        view.feed("a-run", Judged(9.0, Verdict.FAIL, Cause.GUEST_HANG, "why"))
        view.feed("a-run", PhaseStarted(9.1, "kept", f"for 5 min; log in with\n  {login}"))
    assert f"a-run: its guest is kept for 5 min; log in with\n  {login}\n" in output.getvalue()
