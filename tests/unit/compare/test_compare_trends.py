# SPDX-License-Identifier: Apache-2.0
"""Where a measure changed over many runs, on synthetic histories with and without a step."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.compare.change_point import LEAST_SIDE, latest_change
from harness.compare.trends import ALPHA, all_series, trends
from harness.errors import RecordError
from harness.record.run_history import PastRun, append_runs, read_history

RUN = PastRun(
    began="2026-01-01T02:17:00+00:00",
    scenario="reclaim-basic",
    image="sid",
    kernel="6.18.1",
    accel="kvm",
    qemu="10.0.2",
    qemu_name="host",
    host="metal",
    verdict="PASS",
    cause=None,
    seconds=30.0,
    measures={},
)


def noisy(count: int, level: float, seed: int, scatter: float = 0.03) -> list[float]:
    return [random.Random(f"{seed} {n}").gauss(level, scatter * level) for n in range(count)]


def nights(
    values: list[float], measure: str = "settle_seconds", kernel_from: int = 0
) -> list[PastRun]:
    """A run a night; from `kernel_from` on of another kernel."""
    return [
        replace(
            RUN,
            began=f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}T02:17:00+00:00",
            kernel="6.18.1" if n < kernel_from else "6.19.0",
            measures={measure: value},
        )
        for n, value in enumerate(values)
    ]


# --- the change point ----------------------------------------------------------------------------


def test_a_step_is_found_where_it_is() -> None:
    found = latest_change(noisy(20, 4.0, 1) + noisy(8, 5.0, 2), ALPHA)
    assert found is not None
    assert found.index == 20
    assert found.before == pytest.approx(4.0, rel=0.05)
    assert found.after == pytest.approx(5.0, rel=0.05)


def test_of_several_steps_the_latest_counts() -> None:
    found = latest_change(noisy(15, 4.0, 1) + noisy(15, 5.0, 2) + noisy(15, 8.0, 3), ALPHA)
    assert found is not None
    assert found.index == 30


def test_what_does_not_change_is_no_change() -> None:
    """One in a hundred looks at a flat series may be wrong by the stated rule; the size must hold
    too, and so none of these is."""
    for seed in range(100):
        assert latest_change(noisy(25, 4.0, seed), ALPHA) is None, seed
    assert latest_change([1.0] * 50, ALPHA) is None
    assert latest_change([0.0] * 20 + [7.0] + [0.0] * 20, ALPHA) is None, "a single outlier"


def test_a_sure_but_small_change_is_none() -> None:
    assert latest_change(noisy(40, 4.0, 1, 0.001) + noisy(40, 4.1, 2, 0.001), ALPHA) is None


def test_too_few_runs_say_nothing() -> None:
    step = [4.0, 4.1, 3.9, 4.05, 9.0, 9.1, 8.9, 9.05]
    assert len(step) < 2 * LEAST_SIDE
    assert latest_change(step, ALPHA) is None
    assert latest_change([], ALPHA) is None


# --- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "before", "after", "worse"),
    [
        ("settle_seconds", 4.0, 6.0, True),
        ("settle_seconds", 6.0, 4.0, False),
        ("reclaimed_fraction", 0.97, 0.80, True),
        ("reclaimed_fraction", 0.80, 0.97, False),
        ("lazyfree_bytes", 4e6, 8e6, False),
    ],
)
def test_only_a_change_in_the_wrong_direction_is_a_regression(
    measure: str, before: float, after: float, worse: bool
) -> None:
    runs = nights(noisy(20, before, 1) + noisy(10, after, 2), measure)
    (trend,) = trends(all_series(runs, [measure]))
    assert trend.change is not None
    assert trend.got_worse is worse
    assert len(trend.rolling) == 30


def test_other_hosts_kernel_images_and_qemus_are_series_of_their_own() -> None:
    slow = [replace(run, host="old") for run in nights(noisy(20, 8.0, 1))]
    series = all_series([*nights(noisy(20, 4.0, 2)), *slow])
    assert len(series) == 2
    assert not any(trend.change for trend in trends(series))


# --- the file and the command --------------------------------------------------------------------


def test_a_history_is_read_as_written_past_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    first, second = nights([4.0, 5.0])
    append_runs(path, [first])
    with path.open("ab") as file:
        file.write(b'{"began": "2026')
    append_runs(path, [second])
    assert list(read_history(path)) == [first, second]
    path.write_text('{"schema": 9}\n')
    with pytest.raises(RecordError, match=r"history\.jsonl:1: not a run"):
        list(read_history(path))


@pytest.mark.parametrize(("level", "status"), [(4.0, 0), (6.0, 1)])
def test_a_regression_fails_where_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: float, status: int
) -> None:
    path = tmp_path / "history.jsonl"
    append_runs(path, nights(noisy(20, 4.0, 1) + noisy(8, level, 2), kernel_from=20))
    words = ["trend", "--history", str(path)]
    assert main([*words, "--fail-on-regression"]) == status
    told = capsys.readouterr().out
    assert main(words) == 0
    if status:
        assert "WORSE since 2026-01-21T02:17: 4.0 s -> " in told
        assert "with kernel 6.18.1 -> 6.19.0" in told
    else:
        assert told == "1 series, 0 changed, 0 of them for the worse\n"


def test_no_history_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trend", "--history", str(tmp_path / "none")]) == 2
    assert "--history FILE" in capsys.readouterr().err


def test_runs_that_could_not_look_are_in_no_series() -> None:
    missed = [replace(run, verdict="MISS") for run in nights(noisy(12, 9.0, seed=1))]
    assert all_series(missed) == []


@pytest.mark.parametrize(("count", "status"), [(2 * LEAST_SIDE - 1, 69), (2 * LEAST_SIDE, 0)])
def test_a_history_too_short_for_any_change_is_no_success(
    tmp_path: Path, count: int, status: int
) -> None:
    path = tmp_path / "history.jsonl"
    append_runs(path, nights(noisy(count, 4.0, seed=1)))
    assert main(["trend", "--history", str(path), "--fail-on-regression"]) == status
    assert main(["trend", "--history", str(path)]) == 0


def test_names_that_match_nothing_are_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    append_runs(path, nights([4.0]))
    words = ["trend", "--history", str(path), "--fail-on-regression"]
    assert main([*words, "reclaim-basik"]) == 2
    assert main([*words, "--measure", "settle_secs"]) == 2
    assert "has nothing to show" in capsys.readouterr().err
