# SPDX-License-Identifier: Apache-2.0
"""A comparison in plain words: one sentence a measure, one for the verdicts, one for the whole."""

from collections.abc import Mapping

from harness.compare.comparison import (
    ALPHA,
    CONFIDENCE,
    Comparison,
    MeasureCompared,
    VerdictsCompared,
    looked,
)
from harness.compare.two_samples import Shift, smallest_p
from harness.measure.measures import unit_of
from harness.measure.terms import Unit
from harness.record.facts import Verdict
from harness.verdict.expressions import format_measure

_PERCENT = f"{CONFIDENCE:.0%}"
_SHORT_SECONDS = 0.1


def amount(measure: str, value: float) -> str:
    """Format a value as everywhere, but seconds that would round to none: `3.21 ms`."""
    if unit_of(measure) is Unit.SECONDS and 0 < abs(value) < _SHORT_SECONDS:
        return f"{1000 * value:.3g} ms"
    return format_measure(measure, value)


def change(measure: str, value: float, base: float) -> str:
    """Format a difference as a part of A's median, or in the measure's unit if that is 0."""
    sign = "-" if value < 0 else "+"
    if base:
        return f"{sign}{abs(value / base):.1%}"
    return f"{sign}{amount(measure, abs(value))}"


def interval(measure: str, found: Shift) -> str:
    """Format the interval of a difference: `-5.1% to +0.3%`."""
    low, high = (change(measure, end, found.median_a) for end in (found.low, found.high))
    return f"{low} to {high}"


def measure_words(each: MeasureCompared, needed: int) -> str:
    """Say in one sentence what the runs say of a measure; `needed` as `Comparison.needed`."""
    runs = sorted({len(each.a), len(each.b)})
    told = " and ".join(map(str, runs)) + (" runs a side" if len(runs) == 1 else " runs")
    found = each.shift
    if each.answer == "same":
        return f"{amount(each.measure, each.a[0])} in all runs"
    if each.answer == "one-sided":
        return f"taken only with {'A' if each.a else 'B'}"
    if each.answer == "too-few" or found is None:
        least = smallest_p(len(each.a), len(each.b))
        return f"not enough: {told} cannot give a p below {least:.2g}; it takes {needed} a side"
    if each.answer == "differs":
        if found.difference:
            more = "higher" if found.difference > 0 else "lower"
            by = change(each.measure, abs(found.difference), found.median_a).removeprefix("+")
            return f"B is {by} {more}"
        return "B differs, but not in its median"
    return _no_larger(each, found)


def _no_larger(each: MeasureCompared, found: Shift) -> str:
    bound = max(abs(found.low), abs(found.high))
    if not bound:
        ends = [amount(each.measure, end((*each.a, *each.b))) for end in (min, max)]
        return f"no difference of the medians; single runs vary, {ends[0]} to {ends[1]}"
    size = change(each.measure, bound, found.median_a).removeprefix("+")
    return f"no difference larger than {size} at {_PERCENT}"


def verdict_words(each: VerdictsCompared) -> str:
    """Say in one sentence what the verdicts of a scenario say."""
    a, b = (_counts(counts) for counts in (each.a, each.b))
    said = f"A: {a}; B: {b}"
    if each.answer == "too-few":
        return f"{said}: a side has no run that could look"
    if each.p is None:
        return said
    p = f"Fisher's exact test, p = {each.p:.2g}"
    if each.answer == "differs":
        return f"{said}: they do not fail equally often ({p})"
    return f"{said}: that may be chance ({p})"


def _counts(counts: Mapping[Verdict, int]) -> str:
    return ", ".join(f"{counts[v]} {v}" for v in Verdict if counts.get(v)) or "no runs"


def conclusion(found: Comparison) -> str:
    """Say what is to be believed, and what not, of all of it."""
    answers = [each.answer for each in found.verdicts]
    answers += [each.answer for each in found.measures]
    differ = answers.count("differs")
    lines = [
        f"{differ or 'None'} of {found.tests} comparisons differ{'s' if differ == 1 else ''}; with "
        f"nothing to find, one or more would in at most {ALPHA:.0%} of such comparisons (Holm)."
    ]
    if not found.tests:
        lines = ["Nothing varies: all runs of A and B gave the same."]
    if not found.enough:
        few = min(looked(counts) for e in found.verdicts for counts in (e.a, e.b))
        lines.append(
            f"Too few runs to say more: a side has {few}, and it takes {found.needed}. Fewer do "
            "for fewer measures: --measure NAME."
        )
    return " ".join(lines)
