# SPDX-License-Identifier: Apache-2.0
"""What the page shows of several runs: the heat table, the sides of a comparison, and trends."""

import re
from dataclasses import replace
from pathlib import Path

from recorded_runs import FAILED, PASSED
from results_builders import Recorded, write_results

from harness.html.distributions import view_comparison
from harness.html.document import build_page, write_report
from harness.html.heat import heat_table
from harness.html.past_view import MOST_RUNS, view_past
from harness.record.facts import Verdict
from harness.record.recorder import Recorder
from harness.record.run_history import PastRun, append_runs
from harness.record.sides import PLAN_NAME
from harness.report.summary import RunSummary, build_summary

[PASS] = build_summary(PASSED).runs
[FAIL] = build_summary(FAILED).runs


def on(image: str, run: RunSummary, **measures: float) -> RunSummary:
    return replace(run, image=image, scenario="a", run_id=f"a@{image}", measures=measures)


# --- the heat table ------------------------------------------------------------------------------


def test_a_cell_says_the_worst_verdict_and_leads_to_its_run() -> None:
    runs = [
        on("old", PASS, reclaimed_fraction=0.97),
        on("new", PASS, reclaimed_fraction=0.98),
        on("new", FAIL, reclaimed_fraction=0.5),
    ]
    table = heat_table(runs)
    assert table is not None
    [(scenario, cells)] = table.rows
    shown = [(cell.verdict, cell.text, cell.back, cell.run) for cell in cells]
    assert scenario == "a"
    assert sorted(shown, key=lambda cell: cell[3] or 0) == [
        (Verdict.PASS, "PASS", 0.97, 1),
        (Verdict.FAIL, "FAIL 1/2", 0.5, 3),
    ]


def test_what_was_not_measured_or_not_run_has_no_share() -> None:
    b = replace(PASS, scenario="b", run_id="b", image="new", measures={})
    table = heat_table([on("old", PASS, reclaimed_fraction=1.2), b])
    assert table is not None
    cells = {name: [(cell.back, cell.run) for cell in row] for name, row in table.rows}
    assert sorted(cells["a"], key=str) == [(1.0, 1), (None, None)]
    assert sorted(cells["b"], key=str) == [(None, 2), (None, None)]


# --- a comparison --------------------------------------------------------------------------------


def side(label: str, values: list[float]) -> list[RunSummary]:
    return [
        replace(PASS, run_id=f"basic+{label}#{number}", measures={"settle_seconds": value})
        for number, value in enumerate(values, 1)
    ]


def test_every_run_is_a_dot_and_the_interval_lies_beside_no_difference(tmp_path: Path) -> None:
    (tmp_path / PLAN_NAME).write_text('{"sides": {"A": {"named": "a-tree"}, "B": {"named": "b"}}}')
    runs = side("A", [4.0, 4.1, 4.2, 4.1, 4.0, 4.1]) + side("B", [6.0, 6.1, 6.0, 6.0, 6.1, 6.0])
    drawn = view_comparison(tmp_path, runs)
    assert drawn is not None
    assert drawn.sides == (("A", "a-tree"), ("B", "b"))
    [scenario] = drawn.scenarios
    [measure] = scenario.measures
    assert measure.differs
    assert [len(each.dots) for each in measure.sides] == [6, 6]
    assert (measure.sides[0].dots[0], measure.sides[1].dots[1]) == (0.0, 1.0)
    assert measure.ends == ("4.0 s", "6.1 s")
    interval = measure.interval
    assert interval is not None
    assert 0.0 == interval.none < interval.low <= interval.difference <= interval.high == 1.0


def test_too_few_runs_have_dots_and_no_interval(tmp_path: Path) -> None:
    drawn = view_comparison(tmp_path, side("A", [4.0, 5.0]) + side("B", [6.0, 7.0]))
    assert drawn is not None
    [measure] = drawn.scenarios[0].measures
    assert (measure.differs, measure.interval) == (False, None)
    assert drawn.sides == ()


def test_a_page_compares_only_where_both_sides_ran(tmp_path: Path) -> None:
    for name, runs in (("both", "AB"), ("one", "A")):
        (tmp_path / name).mkdir()
        with Recorder(tmp_path / name) as recorder:
            for label in runs:
                for _run, event in PASSED:
                    recorder.emit(f"basic+{label}#1", event)
    assert build_page([tmp_path / "one"]).comparisons == ()
    write_report([tmp_path / "both"], tmp_path / "page.html")
    assert "A: 1 PASS; B: 1 PASS" in (tmp_path / "page.html").read_text()


def test_sides_that_ran_different_scenarios_are_not_compared(tmp_path: Path) -> None:
    b = [replace(run, scenario="other") for run in side("B", [6.0])]
    assert view_comparison(tmp_path, side("A", [4.0]) + b) is None


# --- trends --------------------------------------------------------------------------------------

NIGHT = PastRun(
    began="",
    scenario="basic",
    image="debian-12",
    kernel="6.1.1",
    accel="tcg",
    qemu="7.2",
    qemu_name="host",
    host="metal",
    verdict="PASS",
    cause=None,
    seconds=30.0,
    measures={},
)


def nights(values: list[float], scenario: str = "basic") -> list[PastRun]:
    return [
        replace(
            NIGHT,
            scenario=scenario,
            began=f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}T02:00:00+00:00",
            measures={"settle_seconds": value},
        )
        for n, value in enumerate(values)
    ]


STEP = [4.0, 4.1, 3.9, 4.0, 4.1] * 4 + [6.0, 6.1, 5.9, 6.0, 6.2] * 2


def test_a_curve_shows_where_its_measure_got_worse() -> None:
    (curve,) = view_past([*nights(STEP), *nights(STEP, "other")], [PASS])
    assert (curve.worse, curve.runs) == (True, len(STEP))
    assert curve.change.startswith("WORSE since 2026-01-21")
    assert curve.change_at is not None
    assert curve.dots[19][0] < curve.change_at < curve.dots[20][0]
    assert curve.ends == ("3.9 s", "6.2 s")


def test_a_long_history_shows_its_latest_runs_and_no_change_before_them() -> None:
    past = nights([6.0, 6.1, 5.9] * 10 + [4.0, 4.1, 3.9] * (MOST_RUNS // 3 + 10))
    (curve,) = view_past(past, [PASS])
    assert len(curve.dots) == MOST_RUNS
    assert curve.change
    assert curve.change_at is None


def test_a_page_has_the_trends_of_its_own_scenarios(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", {"a-run": Recorded()})
    history = tmp_path / "history.jsonl"
    image = build_page([results]).runs[0].summary.image
    append_runs(history, [replace(run, image=image) for run in nights(STEP, "a-run")])
    write_report([results], tmp_path / "page.html", history)
    text = (tmp_path / "page.html").read_text()
    assert "Over the past runs" in text
    assert re.search(r"WORSE since 2026-01-21.*4\.0 s -&gt; 6\.0 s", text)


def test_a_broken_history_costs_the_trends_alone(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", {"a-run": Recorded()})
    history = tmp_path / "history.jsonl"
    history.write_text('{"schema": 99}\n')
    page = build_page([results], history)
    assert page.past == ()
    assert "not a run" in page.no_past
