# SPDX-License-Identifier: Apache-2.0
"""What the runs of one commit say to `git bisect run`, as a pure rule."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UNAVAILABLE, USAGE
from harness.record.facts import Cause, Verdict

if TYPE_CHECKING:
    from harness.report.summary import RunSummary

GOOD, BAD, SKIP = 0, 1, 125
"""As git-bisect(1) has them."""

STOP = 128
"""Above 127 ends the bisection: what is wrong is so for every commit, or somebody stopped it."""

MOST_RUNS = 10_000
"""The most runs of one commit, weeks of them, that a confidence may ask for."""

ABOUT = """\
One step of `git bisect run fpr-harness bisect-step SCENARIO ...`: builds (--build), runs the
scenario and says what to think of the commit.

  0    good: every run passed
  1    bad: a run failed
  125  skip: it does not build or boot, has no free page reporting, or the infrastructure broke
  128  stop: the command line is wrong, results cannot be written, or somebody pressed Ctrl-C

A bug that shows now and then: --repeat N wants N good runs for a good commit;
--until-confident 0.95 --fails-in 0.33 wants as many as make it 95 % certain that a bug which
shows in 33 % of the runs would have shown: 8. The first FAIL ends the step."""


@dataclass(frozen=True)
class Answer:
    """What to tell git, and why."""

    status: int
    why: str

    @property
    def word(self) -> str:
        return {GOOD: "good", BAD: "bad", SKIP: "skip"}.get(self.status, "stop")


def as_step(status: int) -> int:
    """Return what git is to see of an exit status: to git, 2 and 69 are bad commits."""
    return {USAGE: STOP, UNAVAILABLE: SKIP}.get(status, status)


def runs_for_confidence(confidence: float, fails_in: float) -> int:
    """Return how many good runs it takes to believe in a good commit.

    A bug that shows in the part `fails_in` of its runs stays hidden in n runs with probability
    (1 - fails_in)^n, which must not exceed 1 - `confidence`. Raises `ValueError` unless both lie
    between 0 and 1.
    """
    if not 0 < confidence < 1 or not 0 < fails_in < 1:
        raise ValueError("the confidence and the part of the runs must lie between 0 and 1")
    # Not above what an integer can be made of: 5e-324 of the runs takes infinitely many.
    return math.ceil(min(math.log1p(-confidence) / math.log1p(-fails_in), sys.maxsize))


def failed(run: "RunSummary") -> bool:
    """Tell whether the run shows the bug: a FAIL of a guest that came up and had reporting."""
    booted = run.kernel is not None
    return run.verdict is Verdict.FAIL and booted and run.cause is not Cause.FEATURE_OFF


def says_nothing(run: "RunSummary") -> bool:
    """Tell whether the harness or its host broke, so that another run may say more."""
    return run.verdict in (Verdict.MISS, Verdict.ERROR)


def answer(runs: "Sequence[RunSummary]", wanted: int) -> Answer:
    """Judge a commit by its runs, of which `wanted` must have passed for a good one."""
    shown = next((run for run in runs if failed(run)), None)
    if shown is not None:
        return Answer(BAD, f"FAIL {shown.cause}: {shown.reason}")
    passed = sum(run.verdict is Verdict.PASS for run in runs)
    if passed >= wanted:
        return Answer(GOOD, f"{passed} of {len(runs)} runs passed")
    # A FAIL interrupts the other runs, so that only without one somebody else stopped them.
    broken = next((run for run in runs if run.verdict is Verdict.FAIL), None)
    if broken is None and any(run.interrupted for run in runs):
        return Answer(STOP, "stopped on request")
    other = broken or next(run for run in runs if run.verdict is not Verdict.PASS)
    if other.verdict is Verdict.DONE:
        return Answer(STOP, f"{other.scenario} measures and judges nothing: it has no `expect`")
    what = f"{other.verdict} {other.cause}" if other.cause else str(other.verdict)
    return Answer(SKIP, f"{passed} of the {wanted} runs wanted passed; {what}: {other.reason}")


def may_say_more(runs: "Sequence[RunSummary]", wanted: int) -> bool:
    """Tell whether other runs in place of those that say nothing may decide about the commit."""
    undecided = answer(runs, wanted).status == SKIP
    no_fail = all(run.verdict is not Verdict.FAIL for run in runs)
    return undecided and no_fail and any(says_nothing(run) for run in runs)
