# SPDX-License-Identifier: Apache-2.0
"""What two samples may be said to show, and how many runs it takes."""

import pytest

from harness.compare.two_samples import fisher, holm, runs_needed, shift, smallest_p


@pytest.mark.parametrize(("runs", "p"), [(1, 1.0), (3, 0.1), (4, 1 / 35), (5, 1 / 126)])
def test_the_number_of_runs_bounds_p(runs: int, p: float) -> None:
    assert smallest_p(runs, runs) == pytest.approx(p)


@pytest.mark.parametrize(("tests", "runs"), [(1, 5), (6, 5), (7, 6), (24, 7), (100, 8)])
def test_more_comparisons_take_more_runs(tests: int, runs: int) -> None:
    assert runs_needed(tests, 0.05) == runs
    assert runs == 5 or smallest_p(runs - 1, runs - 1) > 0.05 / tests


def test_samples_apart_reach_the_smallest_p_and_no_other_do() -> None:
    apart = shift([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 0.95, 1)
    assert apart.p == pytest.approx(smallest_p(5, 5))
    assert (apart.median_a, apart.median_b, apart.difference) == (3, 8, 5)
    assert 0 < apart.low <= 5 <= apart.high
    assert shift([1, 2, 3, 4, 6], [5, 7, 8, 9, 10], 0.95, 1).p > apart.p


def test_one_run_far_off_is_no_difference() -> None:
    found = shift([1, 2, 3, 4, 5], [2, 1, 4, 3, 1000], 0.95, 1)
    assert found.p > 0.5
    assert found.low < 0 < found.high


def test_the_same_values_get_the_same_answer() -> None:
    values = [3.1, 2.7, 8.9, 4.4, 5.0], [2.0, 9.1, 3.3, 4.2, 7.7]
    assert shift(*values, 0.95, 3) == shift(*values, 0.95, 3)


def test_holm_asks_most_of_the_clearest_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_fisher_of_the_lady_who_tasted_tea() -> None:
    """The design of Experiments, 1935: 3 of 4 cups on each side, two-sided."""
    assert fisher(3, 4, 1, 4) == pytest.approx(0.4857, abs=1e-4)
