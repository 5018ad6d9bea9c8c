# SPDX-License-Identifier: Apache-2.0
"""Real runs, judged again from what they recorded: the same verdict, cause and measures."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.record.event_lines import decode
from harness.record.events import Event, Judged
from harness.verdict.judge import judge

RUNS = Path(__file__).parents[2] / "data" / "runs"


def _recorded() -> list[Any]:
    """Every run with what it was asked and all its events but the verdict, and that."""
    found = []
    for path in sorted(RUNS.glob("*.jsonl.gz")):
        asked = json.loads((RUNS / f"{path.name.partition('.')[0]}.json").read_text())
        events: dict[str, list[Event]] = {}
        for line in gzip.decompress(path.read_bytes()).splitlines():
            run, event = decode(line) or pytest.fail(f"{path} has a torn line")
            events.setdefault(run, []).append(event)
        assert set(events) == set(asked)
        found += [pytest.param(asked[run], *_split(events[run]), id=run) for run in events]
    return found


def _split(events: list[Event]) -> tuple[list[Event], Judged]:
    judged = events.pop()
    assert isinstance(judged, Judged)
    return events, judged


@pytest.mark.parametrize(("asked", "events", "before"), _recorded())
def test_a_recorded_run_is_judged_as_it_was(
    asked: dict[str, Any], events: list[Event], before: Judged
) -> None:
    again = judge(
        events,
        asked["expect"],
        t=before.t,
        reporting_wanted=asked["reporting_wanted"],
        measured=asked["measured"],
        answer=asked["answer"],
    )
    assert (again.verdict, again.cause) == (before.verdict, before.cause), again.reason
    assert again.measures == before.measures
    assert again.answer == before.answer
    assert set(again.failed) == set(before.failed)
