# SPDX-License-Identifier: Apache-2.0
"""Real runs, judged again from what they recorded: the same verdict, cause and measures."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.act.discover import VERBS
from harness.record.asked import Asked
from harness.record.event_lines import decode
from harness.record.events import Event, Judged
from harness.record.folding import fold
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.verdict.judge import judge

RUNS = Path(__file__).parents[2] / "data" / "runs"


def _recorded(which: str) -> list[Any]:
    """The name of each run, all its events but the verdict, and that."""
    events: dict[str, list[Event]] = {}
    for line in gzip.decompress((RUNS / f"{which}.jsonl.gz").read_bytes()).splitlines():
        run, event = decode(line) or pytest.fail("a torn line")
        events.setdefault(run, []).append(event)
    return [pytest.param(run, *_split(all_of_it), id=run) for run, all_of_it in events.items()]


def _split(events: list[Event]) -> tuple[list[Event], Judged]:
    judged = events.pop()
    assert isinstance(judged, Judged)
    return events, judged


def _asked() -> dict[str, Asked]:
    """What each run was asked when it was recorded."""
    files = [json.loads(path.read_text()) for path in RUNS.glob("*.json")]
    return {
        run: Asked(
            expect=fields["expect"],
            reporting_wanted=fields["reporting_wanted"],
            measured=frozenset(fields["measured"]),
            answer=tuple(fields["answer"]),
        )
        for asked in files
        for run, fields in asked.items()
    }


THEN = _asked()


@pytest.mark.parametrize(
    ("name", "events", "before"), [*_recorded("default"), *_recorded("faults")]
)
def test_a_recorded_run_is_judged_as_it_was(name: str, events: list[Event], before: Judged) -> None:
    again = judge(fold(events), THEN[name], t=before.t)
    assert (again.verdict, again.cause) == (before.verdict, before.cause), again.reason
    assert again.measures.items() >= before.measures.items(), "measures that are newer come on top"
    assert again.answer == before.answer
    assert set(again.failed) == set(before.failed)


TODAY = {
    scenario.name: scenario.asked
    for path in SCENARIOS_DIR.glob("*.yaml")
    for scenario in load_scenarios(path, VERBS)
}


LATER = {"raced_bytes", "given_back_early_bytes", "never_reported_bytes"}
"""Measures that these records lack: of steps that the scenarios did not have then, or of audits
that did not look for them."""


@pytest.mark.parametrize(("name", "events", "before"), _recorded("default"))
def test_the_scenario_of_today_judges_it_alike(
    name: str, events: list[Event], before: Judged
) -> None:
    """What its file leaves to the invariants is not lost."""
    asked = TODAY[name]
    then = {key: value for key, value in asked.expect.items() if key not in LATER}
    again = judge(fold(events), replace(asked, expect=then), t=before.t)
    assert (again.verdict, again.cause) == (before.verdict, before.cause), again.reason
