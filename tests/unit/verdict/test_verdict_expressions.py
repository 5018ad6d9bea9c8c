# SPDX-License-Identifier: Apache-2.0
"""Expectations: what can be written, what a mistake is answered with, and what they say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.measures import AUDIT_MEASURES, MEASURES
from harness.units import MIB
from harness.verdict.expressions import (
    Expression,
    Name,
    Number,
    Operation,
    Outcome,
    Status,
    check_name,
    evaluate,
    names_in,
    parse_check,
    parse_condition,
)


def judged(measure: str, condition: str, **values: float) -> Outcome:
    return evaluate(measure, parse_condition(condition), values)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0", 0),
        ("0.95", 0.95),
        ("64MiB", 64 * MIB),
        ("1.5 GiB", 1536 * MIB),
        ("4KiB + 1B", 4097),
        ("95%", 0.95),
        ("95% * freed_bytes", 950),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("12 - 4 - 3", 5),
        ("12 / 4 / 3", 1),
        ("-2 + 5", 3),
        ("2 * -3", -6),
        ("freed_bytes-1", 999),
        ("( freed_bytes / 2 - (batch_bytes) )", 400),
    ],
)
def test_arithmetic(expression: str, value: float) -> None:
    outcome = judged("rounds", f"== {expression}", rounds=0, freed_bytes=1000, batch_bytes=100)
    assert outcome.expected == pytest.approx(value)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (">= 5", [False, True, True]),
        ("<= 5", [True, True, False]),
        ("== 5", [False, True, False]),
        ("!= 5", [True, False, True]),
        ("> 5", [False, False, True]),
        ("< 5", [True, False, False]),
        ("<5", [True, False, False]),
    ],
)
def test_comparisons(condition: str, holds: list[bool]) -> None:
    outcomes = [judged("rounds", condition, rounds=value) for value in (4, 5, 6)]
    assert [outcome.status is Status.HOLDS for outcome in outcomes] == holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with a comparison"),
        ("0.95", "does not begin with a comparison"),
        ("=> 1", "does not begin with a comparison"),
        ("= 1", "does not begin with a comparison"),
        (">=", "something is missing at the end"),
        (">= 1 +", "something is missing at the end"),
        (">= 64MB", "cannot read '64MB'"),
        (">= 1 2", "did not expect '2'"),
        (">= 1e9", "cannot read '1e9'"),
        (">= 2 ** 8", "did not expect '\\*'"),
        (">= (1 + 2", "a parenthesis is not closed"),
        (">= 1)", "did not expect '\\)'"),
        (">= )", "did not expect '\\)'"),
        (">= __import__('os')", "did not expect '\\('"),
        (">= freed_bytes.real.x", "cannot read '.x'"),
        (">= 1; 2", "cannot read '; 2'"),
    ],
)
def test_mistakes_are_answered_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_condition(text)


def test_a_check_is_a_measure_and_its_condition() -> None:
    name, condition = parse_check("reclaimed_fraction: '>= 0.95'".replace("'", ""))
    assert (name, condition.text) == ("reclaimed_fraction", ">= 0.95")
    with pytest.raises(ValueError, match="not of the form"):
        parse_check("reclaimed_fraction >= 0.95")


def test_names_are_looked_up_apart() -> None:
    for name, words in (
        ("reclaim_fraction", "did you mean reclaimed_fraction"),
        (
            "xyzzy",
            r"known: balloon_resident_bytes, .* nodeN_ZONE_t90_ratio, .*_zone_returned_fraction$",
        ),
        ("node0_returned_fractoin", "did you mean nodeN_returned_fraction"),
    ):
        with pytest.raises(ValueError, match=words):
            check_name(name)
    for name in ("freed_bytes", "node1_Movable_returned_fraction", "node0_DMA32_t90_ratio"):
        check_name(name)


@pytest.mark.parametrize(
    ("measure", "condition", "values", "sentence"),
    [
        ("reclaimed_fraction", ">= 0.95", {"reclaimed_fraction": 0.4123},
         "reclaimed_fraction 0.4123, expected >= 0.95"),
        ("reclaimed_bytes", ">= 95% * freed_bytes",
         {"reclaimed_bytes": 100 * MIB, "freed_bytes": 500 * MIB},
         "reclaimed_bytes 100MiB, expected >= 475MiB"),
        ("settle_seconds", "<= 60", {"settle_seconds": 61.25},
         "settle_seconds 61.2 s, expected <= 60.0 s"),
        ("reported_resident_bytes", "== 0", {"reported_resident_bytes": 2 * MIB},
         "reported_resident_bytes 2MiB, expected == 0B"),
        ("lazyfree_bytes", "<= 1MiB", {"lazyfree_bytes": MIB + 1},
         "lazyfree_bytes 1048577, expected <= 1048576"),
    ],
)  # fmt: skip
def test_a_failure_shows_both_values(
    measure: str, condition: str, values: dict[str, float], sentence: str
) -> None:
    outcome = judged(measure, condition, **values)
    assert outcome.status is Status.FAILS
    assert outcome.sentence == sentence


@pytest.mark.parametrize(
    ("condition", "value", "low", "high"),
    [
        (">= 5", 4, True, False),
        ("> 5", 5, True, False),
        ("<= 5", 6, False, True),
        ("< 5", 5, False, True),
        ("== 5", 4, True, False),
        ("== 5", 6, False, True),
        ("!= 5", 5, False, True),
        (">= 5", 5, False, False),
    ],
)
def test_a_failure_knows_its_direction(condition: str, value: float, low: bool, high: bool) -> None:
    outcome = judged("rounds", condition, rounds=value)
    assert (outcome.too_low, outcome.too_high) == (low, high)


@pytest.mark.parametrize("condition", ["== 0", ">= 0", "!= 7", "<= 1", ">= 0 * freed_bytes"])
def test_what_was_not_measured_cannot_be_judged(condition: str) -> None:
    outcome = judged("reported_bytes", condition)
    assert outcome.status is Status.UNKNOWN
    assert "reported_bytes" in outcome.missing
    assert "not measured" in outcome.sentence


def test_a_missing_measure_on_the_right_side_cannot_be_judged_either() -> None:
    outcome = judged("reclaimed_bytes", ">= freed_bytes", reclaimed_bytes=1)
    assert (outcome.status, outcome.missing) == (Status.UNKNOWN, ("freed_bytes",))


def test_division_by_zero_cannot_be_judged() -> None:
    outcome = judged("rounds", ">= 1 / freed_bytes", rounds=1, freed_bytes=0)
    assert outcome.status is Status.UNKNOWN
    assert "divides by zero" in outcome.sentence


HUGE = "9" * 400


@pytest.mark.parametrize(
    "condition",
    [f">= {HUGE}", f"!= {HUGE} - {HUGE}", f"< {'9' * 300} * {'9' * 300}", f"> {HUGE} / 2"],
)
def test_numbers_beyond_all_measure_cannot_be_judged(condition: str) -> None:
    """Infinity less infinity differs from everything, which must not make a PASS."""
    outcome = judged("reclaimed_bytes", condition, reclaimed_bytes=1)
    assert outcome.status is Status.UNKNOWN
    assert "too large" in outcome.sentence


@pytest.mark.parametrize(
    "text", [">= " + "(" * 5000, ">= " + "-" * 5000 + "1", "> 1" + "+1" * 5000]
)
def test_an_expression_too_deep_to_evaluate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than 100 numbers and signs"):
        parse_condition(text)


def test_every_measure_is_documented_and_known() -> None:
    assert all(MEASURES.values())
    assert set(MEASURES) >= AUDIT_MEASURES


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ValueError:
        return
    assert all(
        part.isidentifier()
        for name in names_in(condition.expression)
        for part in name.split(".", maxsplit=1)
    )


expressions: st.SearchStrategy[Expression] = st.recursive(
    st.integers(0, 1000).map(Number) | st.sampled_from(["rounds", "freed_bytes"]).map(Name),
    lambda inner: st.builds(Operation, st.sampled_from("+-*"), inner, inner),
    max_leaves=12,
)


def written(expression: Expression) -> str:
    match expression:
        case Number(value):
            return f"{value:g}"
        case Name(name):
            return name
        case Operation(sign, left, right):
            return f"({written(left)} {sign} {written(right)})"


@settings(deadline=None)
@given(expressions)
def test_an_expression_means_what_it_means_in_python(expression: Expression) -> None:
    values = {"rounds": 3, "freed_bytes": 70}
    text = written(expression)
    outcome = judged("rounds", f"== {text}", **values)
    assert outcome.expected == eval(text, {}, dict(values))
