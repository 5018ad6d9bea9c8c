# SPDX-License-Identifier: Apache-2.0
"""Real runs, judged again from what they recorded: the same verdict, cause and measures."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.record.event_lines import decode
from harness.record.events import Event, Judged
from harness.record.folding import fold
from harness.verdict.asked import Asked
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
        found += [pytest.param(_asked(asked[run]), *_split(events[run]), id=run) for run in events]
    return found


def _asked(fields: dict[str, Any]) -> Asked:
    return Asked(
        expect=fields["expect"],
        reporting_wanted=fields["reporting_wanted"],
        measured=frozenset(fields["measured"]),
        answer=tuple(fields["answer"]),
    )


def _split(events: list[Event]) -> tuple[list[Event], Judged]:
    judged = events.pop()
    assert isinstance(judged, Judged)
    return events, judged


@pytest.mark.parametrize(("asked", "events", "before"), _recorded())
def test_a_recorded_run_is_judged_as_it_was(
    asked: Asked, events: list[Event], before: Judged
) -> None:
    again = judge(fold(events), asked, t=before.t)
    assert (again.verdict, again.cause) == (before.verdict, before.cause), again.reason
    assert again.measures == before.measures
    assert again.answer == before.answer
    assert set(again.failed) == set(before.failed)
