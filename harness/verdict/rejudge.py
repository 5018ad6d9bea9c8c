# SPDX-License-Identifier: Apache-2.0
"""Judge a recorded run again from its events, by its own or by other expectations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.record.asked import Asked
from harness.record.events import Audited, Broke, Event, Judged
from harness.record.facts import Verdict
from harness.record.folding import fold
from harness.record.recorded_run import RecordedRun
from harness.verdict.expressions import parse_condition
from harness.verdict.judge import judge

_EXPECTATION = re.compile(r"\s*([A-Za-z_][\w-]*(?:\.[A-Za-z_]\w*)?)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Terms:
    """What a recorded run is judged by."""

    asked: Asked
    checks: Mapping[str, Sequence[tuple[str, ...]]] | None = None
    """Checks (`measure: condition`) of `audit` steps: by the audit's name, those of its first
    occurrence, its second, and so on; None stands for those in the events."""


def judge_again(run: RecordedRun, events: Sequence[Event], terms: Terms) -> Judged:
    """Judge a run by its events, whose audits may have been recomputed.

    If events may be lost, only those before the gap are judged, and the verdict cannot be PASS.
    """
    if run.gap is not None:
        before = events[: run.gap.index]
        torn = Broke(
            t=before[-1].t,
            error="RecordError",
            verdict=Verdict.MISS,
            message=f"line {run.gap.line} of results.jsonl {run.gap.what}: the record has a gap",
            hint="run the scenario again",
        )
        events = (*before, torn)
    if terms.checks is not None:
        events = _with_checks(events, terms.checks)
    t = run.judged.t if run.judged is not None else events[-1].t
    return judge(fold(events), terms.asked, t=t)


def _with_checks(
    events: Sequence[Event], checks: Mapping[str, Sequence[tuple[str, ...]]]
) -> tuple[Event, ...]:
    """Replace the checks of the audits; surplus audits of a name get the last checks for it."""
    taken: dict[str, int] = {}
    result: list[Event] = []
    for event in events:
        if isinstance(event, Audited):
            times = taken[event.name] = taken.get(event.name, 0) + 1
            those = checks.get(event.name, [()])
            event = replace(event, checks=those[min(times, len(those)) - 1])
        result.append(event)
    return tuple(result)


def parse_expectation(text: str) -> tuple[str, str]:
    """Parse `NAME=CONDITION` into measure and condition; the `=` may be left out (`x >= 1`).

    Raises `ValueError` that says what is wrong.
    """
    found = _EXPECTATION.fullmatch(text)
    if found is None:
        raise ValueError("write NAME=CONDITION, as in 'reclaimed_fraction=>= 0.9'")
    name, condition = found.groups()
    try:
        parse_condition(condition)
    except ValueError:
        if not condition.startswith("="):
            raise
        condition = condition[1:].strip()
        parse_condition(condition)
    return name, condition
