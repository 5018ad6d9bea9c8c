# SPDX-License-Identifier: Apache-2.0
"""The statistics held against real runs: how often they cry wolf, and whether they see one."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.compare import comparison, two_samples
from harness.compare.comparison import ALPHA, compare
from harness.record.facts import Verdict
from harness.report.summary import RunSummary

DATA = Path(__file__).parents[2] / "data/compare/reclaim-basic.json"
TRIALS = 200
RUNS = 5
"""A side; enough for 6 measures, and so few permutations that all are tried at once."""

MEASURES = (
    "settle_t50_seconds",
    "settle_t90_seconds",
    "reclaimed_fraction",
    "retained_free_bytes",
    "percpu_free_bytes",
    "held_bytes",
)


def recorded(key: str) -> list[RunSummary]:
    rows = json.loads(DATA.read_text(encoding="utf-8"))[key]
    return [
        RunSummary(f"s#{n}", "s", "trixie-backports", 1, verdict=Verdict.PASS, measures=row)
        for n, row in enumerate(rows)
    ]


@pytest.mark.whole_command
def test_alarms_on_one_and_the_same_kernel_stay_below_the_stated_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uncorrected: list[list[float]] = []

    def holm(ps: Sequence[float]) -> list[float]:
        uncorrected.append(list(ps))
        return two_samples.holm(ps)

    monkeypatch.setattr(two_samples, "RESAMPLES", 252)
    monkeypatch.setattr(comparison, "holm", holm)
    runs = recorded("delay-2000ms")
    draw = random.Random(14)
    drawn = [draw.sample(runs, 2 * RUNS) for _ in range(TRIALS)]
    alarms = sum(compare(each[:RUNS], each[RUNS:], MEASURES).differs for each in drawn)
    assert alarms <= ALPHA * TRIALS
    assert sum(min(ps) <= ALPHA for ps in uncorrected) > ALPHA * TRIALS, "the correction is needed"


def test_passes_20_times_as_often_settle_faster_and_free_as_much() -> None:
    found = compare(recorded("delay-2000ms")[:10], recorded("delay-100ms"), MEASURES)
    answers = {each.measure: each for each in found.measures}
    t90 = answers["settle_t90_seconds"]
    assert t90.answer == "differs"
    assert t90.shift is not None
    assert -4.0 < t90.shift.low <= t90.shift.high < -3.0
