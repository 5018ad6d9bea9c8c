# SPDX-License-Identifier: Apache-2.0
"""Judges small runs, for the tests of verdicts and causes."""

from collections.abc import Mapping, Sequence
from typing import Any

from run_builders import (
    Guest,
    a_run,
    healthy,
    settled,
)

from harness.kernel.pages import GuestState, HostState
from harness.record.asked import Asked
from harness.record.events import ConsoleFinding, Event, Judged, Settled
from harness.record.facts import Cause, Verdict
from harness.record.folding import fold
from harness.verdict.judge import judge

RECLAIM = {
    "reclaimed_fraction": ">= 0.95",
    "reported_resident_bytes": "== 0",
    "integrity_mismatched_pages": "== 0",
    "console_findings": "== 0",
}
CONTROL = {"reclaimed_bytes": "<= 5% * freed_bytes", "reported_bytes": "== 0"}
FRACTION = {"reclaimed_fraction": ">= 0.95"}
S, G = HostState, GuestState


def judged(
    events: Sequence[Event], expect: Mapping[str, str] = RECLAIM, t: float = 0.0, **asked: Any
) -> Judged:
    """Judge the events by `expect`; `asked`: the other fields of `Asked`."""
    return judge(fold(events), Asked(expect=expect, **asked), t=t)


def check(
    events: Sequence[Event], expect: Mapping[str, str] = RECLAIM, **asked: Any
) -> tuple[Verdict, Cause | None, str]:
    found = judged(events, expect, **asked)
    return found.verdict, found.cause, found.reason


def swallowed(blocks: int = 80) -> Guest:
    """The host kept `blocks` of what was discarded."""
    return healthy().blocks(26, blocks, G.REPORTED, S.RESIDENT)


def held_after(guest: Guest) -> Settled:
    """The settle that goes with this guest."""
    return settled(held=guest.audited().mapping.held)


def run_on(guest: Guest, **changes: Any) -> list[Event]:
    return a_run(guest, settled_as=changes.pop("settled_as", held_after(guest)), **changes)


def warning(t: float = 30.0) -> ConsoleFinding:
    return ConsoleFinding(t, "warning", "WARNING: at mm/page_alloc.c:1234", "...")


def crash(t: float = 30.0) -> ConsoleFinding:
    return ConsoleFinding(t, "crash", "Kernel panic - not syncing", "...")
