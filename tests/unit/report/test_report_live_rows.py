# SPDX-License-Identifier: Apache-2.0
"""The live view of running guests: what a row says at each width, and what is to come."""

import pytest
from rich.cells import cell_len

from harness.record.facts import Verdict
from harness.report.live_rows import (
    ASCII_LEVELS,
    MOST_POINTS,
    Curve,
    Progress,
    RunState,
    rows,
)
from harness.report.progress import wants_live
from harness.units import MIB


def running(began: float = 0.0, **changes: object) -> RunState:
    run = RunState("bookworm", began, phase="settle", detail="at most 60 s")
    run.held_before, run.held = 774 * MIB, 520 * MIB
    for t in range(20):
        run.curve.add(float(t), (774 - 20 * t) * MIB)
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def shown(
    runs: dict[str, RunState], progress: Progress, width: int = 80, height: int = 24
) -> list[str]:
    return rows(runs, progress, now=41.0, width=width, height=height).plain.splitlines()


def test_a_row_has_elapsed_time_phase_memory_back_and_a_curve() -> None:
    (row, foot) = shown({"reclaim-basic": running()}, Progress({"reclaim-basic": 30.0, "x": 9.0}))
    assert row.startswith("  41s reclaim-basic ")
    assert " settle at most 60 s " in row
    assert " 254MiB back " in row
    assert row.endswith(" ███▇▇▇▆▆▆▅▅▅▅"), row
    assert foot == "0 of 2; about 9 s left; 1 queued: x"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_lost_that_fits(width: int) -> None:
    name = "order-boundaries-set-11-漢字漢字漢字漢字漢字漢字漢字"
    expected = {f"scenario-number-{number}": 30.0 for number in range(40)}
    lines = shown({name: running(), "b": running()}, Progress({**expected, name: 1.0}), width)
    for line in lines:
        assert cell_len(line) <= width, line
    assert all("254MiB back" in line for line in lines[:2])
    assert ("host holds 520MiB" in lines[0]) == (width >= 100)
    assert "order-bounda" in lines[0]
    assert "40 queued" in lines[-1]


def test_more_guests_than_lines_are_counted() -> None:
    lines = shown({f"r{number}": running() for number in range(30)}, Progress({}), height=10)
    assert len(lines) == 7
    assert lines[-1].strip() == "and 24 more guests"


def test_the_time_left_follows_from_how_long_the_ended_runs_took() -> None:
    runs = {"now": running(began=31.0)}
    slow = Progress({"done": 10.0, "now": 30.0, "next": 20.0}).after("done", Verdict.PASS, 20.0)
    assert slow.seconds_left(runs, 41.0) == 2.0 * 30.0 - 10.0 + 2.0 * 20.0
    two = {**runs, "other": running(began=41.0)}
    assert slow.seconds_left(two, 41.0) == 50.0, "the longest that is left"
    assert Progress({}).seconds_left(runs, 41.0) is None
    assert slow.seconds_left({}, 41.0) is None


def test_a_run_that_is_tried_again_is_neither_ended_nor_queued() -> None:
    progress = Progress({"a": 1.0}).after("a", Verdict.MISS, 3.0).again("a")
    assert shown({"a": running()}, progress)[-1] == "0 of 1"
    assert shown({}, progress.after("a", Verdict.PASS, 9.0)) == ["1 PASS of 1"]


def test_a_curve_is_scaled_to_its_top_and_thinned_out() -> None:
    curve = Curve()
    assert curve.cells(4) == "    "
    curve.add(0.0, 0)
    assert curve.cells(2) == "  "
    for t in range(1, 101):
        curve.add(float(t), t)
    assert curve.cells(9) == "▁▂▃▄▅▆▇██"
    assert curve.cells(9, ASCII_LEVELS) == ".:-=+*#%%"
    for t in range(101, 100_000):
        curve.add(float(t), 100)
    assert len(curve._points) <= MOST_POINTS
    assert curve.cells(3) == "███"


def test_a_guests_words_steer_no_terminal() -> None:
    lines = shown({"a\x1b[2J": running(detail="\x1b]0;t\x07\nnew")}, Progress({"q\x1b": 1.0}))
    assert all(line.isprintable() for line in lines)


def test_ci_and_dumb_terminals_are_not_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert wants_live(terminal=True, dumb=False)
    assert not wants_live(terminal=True, dumb=True)
    assert not wants_live(terminal=False, dumb=False)
    monkeypatch.setenv("CI", "true")
    assert not wants_live(terminal=True, dumb=False)
