# SPDX-License-Identifier: Apache-2.0
"""Which reporting order and delay to take, by what each saves and what it costs."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import sizing_command
from harness.cli.main import main
from harness.compare.sizing import Outcome, Setting, outcome, recommend
from harness.compare.sizing_table import advice, print_sizing
from harness.record.facts import Verdict
from harness.report.summary import RunSummary
from harness.units import GIB, MIB

CPU = ("qemu_main_cpu_seconds", "qemu_vcpus_cpu_seconds", "qemu_others_cpu_seconds")


def found(setting: Setting | None, held: int, cpu: float) -> Outcome:
    """Held MiB, and CPU seconds of the vCPUs."""
    parts = dict(zip(CPU, (1.0, cpu, 0.0), strict=True))
    return Outcome(setting, 1, held * MIB, held * MIB / GIB, parts, 3e-6)


OFF = found(None, 800, 20.0)


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        # Single pages save a little more and cost a lot more.
        ([(Setting(9), 500, 20.5), (Setting(0), 480, 30.0)], "order-9"),
        # What saves too little does not count, however cheap.
        ([(Setting(9), 700, 20.0), (Setting(4), 500, 24.0)], "order-4"),
        # Alike in cost: the largest order, then the longest delay.
        ([(Setting(4), 500, 20.2), (Setting(9), 500, 20.9)], "order-9"),
        ([(Setting(9, 0.1), 500, 20.2), (Setting(9, 2.0), 505, 20.3)], "order-9-2000ms"),
        ([(Setting(9), 795, 20.0), (Setting(0), 799, 20.0)], None),
        ([], None),
    ],
)
def test_the_rule(settings: list[tuple[Setting, int, float]], best: str | None) -> None:
    chosen = recommend(OFF, [found(*each) for each in settings])
    assert (chosen.setting.name if chosen is not None and chosen.setting else None) == best


def a_run(name: str, order: int | None, **measures: float) -> RunSummary:
    plain = {
        "held_mean_bytes": 500.0 * MIB,
        "footprint_gib_minutes": 0.5,
        **dict.fromkeys(CPU, 1.0),
    }
    own = {} if order is None else {"order_read": float(order)}
    return RunSummary(
        name, "sizing", "bookworm", 1, verdict=Verdict.DONE, measures={**plain, **own, **measures}
    )


def test_medians_are_of_the_runs_that_measured_it_at_that_order() -> None:
    runs = [
        a_run("order-9#1", 9, held_mean_bytes=1.0),
        a_run("order-9#2", 9, held_mean_bytes=3.0),
        a_run("order-9#3", 9, held_mean_bytes=8.0),
        # A kernel that refused the order kept its own.
        a_run("order-9#4", 8, held_mean_bytes=900.0),
        RunSummary("order-9#5", "sizing", "bookworm", 1, verdict=Verdict.SKIP),
    ]
    summed = outcome(Setting(9), runs)
    assert summed is not None
    assert (summed.runs, summed.held) == (3, 3.0)
    assert outcome(Setting(4), runs) is None
    lacking = a_run("off#1", None)
    del lacking.measures[CPU[0]]
    assert outcome(None, [lacking]) is None


def test_the_table_says_what_each_saves_and_pays_and_by_which_rule_one_is_taken() -> None:
    file = io.StringIO()
    print_sizing(OFF, [found(Setting(9), 500, 20.5), found(Setting(0), 480, 30.0)], file)
    said = " ".join(file.getvalue().split())
    assert "order-9 500MiB 300MiB 0.488 1.0 (+0.0) 20.5 (+0.5) 0.0 (+0.0) 3.00 us" in said
    assert "Take order-9: it saves 300MiB for +0.5 CPU seconds." in said
    assert advice(None, []).startswith("No recommendation: the run without reporting")


@pytest.mark.parametrize(
    "words", [["--orders", "9,x"], ["--delays", "soon"], ["--orders", "-1"], ["--image", "all"]]
)
def test_bad_lists_are_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizing", *words]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("fpr-harness: ")) == ("", 1)


def test_each_setting_is_run_in_turn_and_what_could_not_be_set_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned: list[str] = []

    def perform(_options: Any, _chosen: Any, runs: Any, *_a: Any, alone: bool) -> Any:
        assert alone
        planned.extend(run.run_id for run in runs)
        assert runs[0].scenario.balloon.free_page_reporting is False
        assert runs[1].scenario.plain["steps"][0] == {"order": {"set": 9}}
        done = [a_run("off#1", None, held_mean_bytes=900.0 * MIB), a_run("order-9#1", 9)]
        return SimpleNamespace(summary=SimpleNamespace(runs=done))

    monkeypatch.setattr(sizing_command, "perform", perform)
    assert main(["sizing", "--orders", "9,0", "--repeat", "2"]) == 69
    assert planned == ["off#1", "order-9#1", "order-0#1", "off#2", "order-9#2", "order-0#2"]
    said = capsys.readouterr().out
    assert "Not measured: order-0" in said
    assert "Take order-9" in said
    assert "a parameter from Linux 7.3 on" in said
    assert "Batch capacity is not swept" in said
