# SPDX-License-Identifier: Apache-2.0
"""Every event survives its line in results.jsonl."""

from typing import get_args

import pytest
from pydantic import TypeAdapter
from run_builders import a_run, every_step, freed, healthy, mapping, pressed, zone

from harness.record.events import (
    AttemptBroke,
    AttemptCrashed,
    Audited,
    Broke,
    ChurnAsked,
    ConsoleFinding,
    DriverChanged,
    Event,
    Judged,
    Measured,
    Pictured,
    Sample,
    SamplingEnded,
    StackDecoded,
)
from harness.record.facts import Cause, GuestCounters, Verdict

EVENTS: list[Event] = [
    *a_run(),
    *every_step(),
    AttemptBroke(1.0, 1, "QEMU was killed"),
    AttemptCrashed(1.0, 1, "tcg", "Oops", "Oops: 0000", "a defect", own=False),
    ChurnAsked(1.0, 2, 3),
    Measured(1.0, "apples", 3.0),
    freed(before=mapping(1, file_blocks=4096, cgroup_current=5), discards_before=None),
    healthy().audited(
        counters=GuestCounters(1.0, {"MemFree": 1}, {"nr_free_pages": 2}, (zone(), zone(node=1))),
        checks=("rounds: >= 1",),
        discards=None,
    ),
    Pictured(1.0, "peak", healthy().audited().report, "0" * 64),
    Sample(1.0, 1, None, 0, None, 7),
    Sample(1.0, 1, 1, 0, None, 7, huge=1),
    SamplingEnded(2.0, 1, ("the guest's meminfo is empty",)),
    DriverChanged(1.0, False),
    pressed(2.0, before=2, after=1),
    ConsoleFinding(1.0, "hang", "soft lockup", "watchdog: ..."),
    StackDecoded(1.0, "soft lockup", "f (mm/x.c:3)"),
    Broke(1.0, "SshError", Verdict.MISS, "lost", ""),
    Judged(1.0, Verdict.FAIL, Cause.LAZILY_FREE, "why", {"rounds": 1.0}),
    Judged(1.0, Verdict.PASS, None, "all hold"),
]
ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def test_every_type_of_event_is_here() -> None:
    union = get_args(get_args(Event)[0])
    assert {type(event) for event in EVENTS} == set(union)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_survives_its_line(event: Event) -> None:
    line = ADAPTER.dump_json(event)
    again = ADAPTER.validate_json(line)
    assert again == event
    assert type(again) is type(event)


def test_orders_are_numbers_again() -> None:
    event = healthy().audited()
    again = ADAPTER.validate_json(ADAPTER.dump_json(event))
    assert isinstance(again, Audited)
    assert again.report.reported_by_order == event.report.reported_by_order
    assert set(map(type, again.report.reported_by_order)) == {int}
