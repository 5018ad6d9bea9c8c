# SPDX-License-Identifier: Apache-2.0
"""What may be claimed of two sides' runs: differences, bounds, and when nothing."""

import io
from collections.abc import Sequence

import pytest

from harness.compare.comparison import compare
from harness.compare.table import print_comparison
from harness.compare.words import measure_words, verdict_words
from harness.record.facts import Cause, Verdict
from harness.report.summary import RunSummary

LOW, HIGH = [10.0, 10.1, 10.2, 10.3, 10.4], [12.0, 12.1, 12.2, 12.3, 12.4]
MIXED = [10.0, 12.4, 11.2, 10.3, 11.9]


def runs(
    values: Sequence[float], *, verdict: Verdict = Verdict.PASS, name: str = "settle_seconds"
) -> list[RunSummary]:
    cause = Cause.NOT_REPORTED if verdict is Verdict.FAIL else None
    return [
        RunSummary(
            f"s#{n}", "s", "bookworm", 1, verdict=verdict, cause=cause, measures={name: value}
        )
        for n, value in enumerate(values)
    ]


def said(a: Sequence[RunSummary], b: Sequence[RunSummary]) -> str:
    found = compare(a, b)
    return measure_words(found.measures[0], found.needed)


def test_a_difference_is_claimed_and_told_in_percent() -> None:
    found = compare(runs(LOW), runs(HIGH))
    assert found.differs
    assert said(runs(LOW), runs(HIGH)) == "B is 19.6% higher"
    assert said(runs(HIGH), runs(LOW)) == "B is 16.4% lower"


def test_without_a_difference_it_says_which_is_excluded() -> None:
    found = compare(runs(MIXED), runs([*MIXED[1:], 10.1]))
    assert not found.differs
    assert found.enough
    words = said(runs(MIXED), runs([*MIXED[1:], 10.1]))
    assert words.startswith("no difference larger than ")
    assert words.endswith("% at 95%")


def test_two_runs_a_side_that_are_all_alike_are_not_enough() -> None:
    found = compare(runs([10.0, 10.0]), runs([10.0, 10.0]))
    assert (found.differs, found.enough) == (False, False)


def test_too_few_runs_claim_nothing_and_say_how_many_it_takes() -> None:
    found = compare(runs(LOW[:3]), runs(HIGH[:3]))
    assert not found.differs
    assert not found.enough
    assert said(runs(LOW[:3]), runs(HIGH[:3])) == (
        "not enough: 3 runs a side cannot give a p below 0.1; it takes 5 a side"
    )


def test_what_a_side_did_not_take_is_not_compared_with_0() -> None:
    a, b = runs(LOW), runs(HIGH, name="other_bytes")
    answers = {each.measure: each.answer for each in compare(a, b).measures}
    assert answers == {"settle_seconds": "one-sided", "other_bytes": "one-sided"}


def test_what_never_varies_is_no_comparison() -> None:
    found = compare(runs([1.0] * 5), runs([1.0] * 5))
    assert found.tests == 0
    assert [each.answer for each in found.measures] == ["same"]
    assert not found.differs


def test_runs_that_could_not_look_have_no_say() -> None:
    broken = runs([99.0] * 5, verdict=Verdict.MISS)
    found = compare([*runs(LOW), *broken], runs(LOW))
    assert found.measures[0].a == tuple(LOW)
    assert verdict_words(found.verdicts[0]) == "A: 5 PASS, 5 MISS; B: 5 PASS"
    assert not compare(broken, runs(LOW)).enough


@pytest.mark.parametrize(("fails", "differs"), [(5, True), (2, False)])
def test_verdicts_are_compared_too(fails: int, differs: bool) -> None:
    b = [*runs([1.0] * fails, verdict=Verdict.FAIL), *runs([1.0] * (5 - fails))]
    found = compare(runs([1.0] * 5), b)
    assert found.differs is differs
    words = verdict_words(found.verdicts[0])
    assert ("do not fail equally often" in words) is differs
    assert ("may be chance" in words) is not differs


def test_one_measure_alone_takes_fewer_runs() -> None:
    a, b = runs(LOW), runs(HIGH)
    many = {f"more{n}_bytes": float(n) for n in range(20)}
    for number, run in enumerate([*a, *b]):
        run.measures.update({name: value + number * 7 % 3 for name, value in many.items()})
    assert not compare(a, b).enough
    assert compare(a, b).needed == 6
    assert compare(a, b, ["settle_seconds"]).differs


def test_the_table_has_differences_first_and_says_what_to_believe() -> None:
    a, b = runs(MIXED), runs(MIXED[::-1])
    for each, one, other in zip([*a, *b], [*LOW, *HIGH], [7] * 10, strict=True):
        each.measures.update({"held_bytes": one * 1e6, "freed_bytes": other})
    file = io.StringIO()
    print_comparison(compare(a, b), file)
    text = file.getvalue()
    assert text.index("held_bytes") < text.index("settle_seconds")
    assert "1 measures are the same in all runs." in text
    assert "1 of 2 comparisons differs; with nothing to find" in text
