# SPDX-License-Identifier: Apache-2.0
"""What the runs of two sides say about the difference between them. Pure.

All comparisons of an invocation - every measure of every scenario, and how often each fails - are
one family: with nothing to find, something is claimed in at most 5 % of invocations. What is the
same in all runs of both sides is no comparison. A measure that a side could not take is left out
there; nothing takes its place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.compare.two_samples import (
    LEAST_RUNS,
    Shift,
    fisher,
    holm,
    runs_needed,
    shift,
    smallest_p,
)
from harness.record.facts import Verdict
from harness.report.summary import RunSummary

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE

LOOKED = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.DONE})
"""Verdicts of runs that say something; the others could not look, or were not to."""

Answer = Literal["differs", "not-told", "same", "too-few", "one-sided"]
"""`not-told`: a difference larger than the interval is excluded, a smaller one is not."""


@dataclass(frozen=True)
class MeasureCompared:
    """One measure of one scenario."""

    scenario: str
    measure: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    answer: Answer
    shift: Shift | None = None
    """None unless there were enough runs and values that differ."""
    p: float | None = None
    """Corrected for the number of comparisons."""


@dataclass(frozen=True)
class VerdictsCompared:
    """How often one scenario failed."""

    scenario: str
    a: Mapping[Verdict, int]
    b: Mapping[Verdict, int]
    answer: Answer
    p: float | None = None
    """Corrected for the number of comparisons."""


@dataclass(frozen=True)
class Comparison:
    """All that the runs of A and B say."""

    verdicts: tuple[VerdictsCompared, ...]
    measures: tuple[MeasureCompared, ...]
    tests: int
    """How many comparisons the p values are corrected for."""

    @property
    def needed(self) -> int:
        """Runs a side that it takes before anything can be claimed."""
        return runs_needed(max(1, self.tests), ALPHA)

    @property
    def differs(self) -> bool:
        """Whether anything may be claimed to differ."""
        return "differs" in self._answers

    @property
    def enough(self) -> bool:
        """Whether there were runs enough for all that was asked."""
        sides = [looked(counts) for each in self.verdicts for counts in (each.a, each.b)]
        return bool(sides) and min(sides) >= LEAST_RUNS and "too-few" not in self._answers

    @property
    def _answers(self) -> list[Answer]:
        return [v.answer for v in self.verdicts] + [m.answer for m in self.measures]


def compare(
    a: Sequence[RunSummary], b: Sequence[RunSummary], only: Sequence[str] = ()
) -> Comparison:
    """Compare the scenarios that both sides ran; `only` names the measures, all if it is empty."""
    names = [name for name in _scenarios(a) if name in _scenarios(b)]
    verdicts = [_verdicts(name, _of(a, name), _of(b, name)) for name in names]
    measures = [each for name in names for each in _measures(name, _of(a, name), _of(b, name))]
    measures = [each for each in measures if not only or each.measure in only]
    tested = [each for each in measures if each.answer == "not-told"]
    failing = [each for each in verdicts if each.answer == "not-told"]
    tests = len(tested) + len(failing)
    shifts = {
        id(each): shift(each.a, each.b, CONFIDENCE, tests)
        for each in tested
        if min(len(each.a), len(each.b)) >= LEAST_RUNS
    }
    # One of too few runs keeps its place in the family, with nothing to say for it.
    ps = [shifts[id(each)].p if id(each) in shifts else 1.0 for each in tested]
    ps += [_fisher(each) for each in failing]
    corrected = dict(zip(map(id, [*tested, *failing]), holm(ps), strict=True))
    return Comparison(
        tuple(_told_verdicts(each, corrected.get(id(each))) for each in verdicts),
        tuple(
            _told(each, shifts.get(id(each)), corrected.get(id(each)), tests) for each in measures
        ),
        tests,
    )


def _scenarios(runs: Sequence[RunSummary]) -> list[str]:
    return list(dict.fromkeys(run.scenario for run in runs))


def _of(runs: Sequence[RunSummary], scenario: str) -> list[RunSummary]:
    return [run for run in runs if run.scenario == scenario]


def _verdicts(scenario: str, a: Sequence[RunSummary], b: Sequence[RunSummary]) -> VerdictsCompared:
    counts = Counter(run.verdict for run in a), Counter(run.verdict for run in b)
    fails = sum(count[Verdict.FAIL] for count in counts)
    sides = [looked(count) for count in counts]
    answer: Answer = "not-told" if 0 < fails < sum(sides) else "same"
    if not all(sides):
        answer = "too-few"
    return VerdictsCompared(scenario, *counts, answer)


def looked(counts: Mapping[Verdict, int]) -> int:
    """Count the runs that say something."""
    return sum(counts.get(verdict, 0) for verdict in LOOKED)


def _fisher(each: VerdictsCompared) -> float:
    fails = [counts.get(Verdict.FAIL, 0) for counts in (each.a, each.b)]
    return fisher(fails[0], looked(each.a), fails[1], looked(each.b))


def _told_verdicts(each: VerdictsCompared, p: float | None) -> VerdictsCompared:
    if p is None:
        return each
    return replace(each, p=p, answer="differs" if p <= ALPHA else "not-told")


def _measures(
    scenario: str, a: Sequence[RunSummary], b: Sequence[RunSummary]
) -> list[MeasureCompared]:
    sides = [[run for run in runs if run.verdict in LOOKED] for runs in (a, b)]
    names = dict.fromkeys(name for runs in sides for run in runs for name in run.measures)
    found = []
    for name in names:
        values = [tuple(r.measures[name] for r in runs if name in r.measures) for runs in sides]
        answer: Answer = "not-told"
        if not values[0] or not values[1]:
            answer = "one-sided"
        elif len({*values[0], *values[1]}) == 1:
            answer = "same"
        found.append(MeasureCompared(scenario, name, values[0], values[1], answer))
    return found


def _told(
    each: MeasureCompared, found: Shift | None, p: float | None, tests: int
) -> MeasureCompared:
    if p is None:
        return each
    if found is None:
        return replace(each, answer="too-few")
    if p <= ALPHA:
        return replace(each, answer="differs", shift=found, p=p)
    few = smallest_p(len(each.a), len(each.b)) > ALPHA / tests
    return replace(each, answer="too-few" if few else "not-told", shift=found, p=p)
