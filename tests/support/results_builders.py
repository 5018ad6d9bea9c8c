# SPDX-License-Identifier: Apache-2.0
"""Writes results directories of small synthetic guests, with the files of their audits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from judging import RECLAIM, held_after, judged
from run_builders import BLOCK, BLOCKS, Guest, a_run, covering, healthy

from harness.record.address_map import RamPiece
from harness.record.asked import Asked
from harness.record.audit_file import AuditFacts, AuditInputs, AuditReading, save_audit
from harness.record.events import Audited, Event, RunStarted, StepsDone
from harness.record.recorder import Recorder
from harness.record.run_directory import audit_path
from harness.record.run_plan import RunPlan

HVA = 0x7F8FB7E00000
"""Host address where the guests' memory begins in QEMU."""

BEGAN = 1767225600.0
"""When the runs began: 2026-01-01 in UTC."""


def inputs_of(guest: Guest, at: float = 50.0, **facts: Any) -> AuditInputs:
    """Build the inputs of an audit of the guest."""
    reading = AuditReading(guest.states, guest.host, guest.states.copy(), 0.1, 0.01)
    plain = AuditFacts(
        at=at,
        zones=guest.zones,
        reporting_order=guest.order,
        moved=False,
        pieces=(RamPiece(0, BLOCK * BLOCKS, "m0", 0, HVA),),
        held_by=(312,),
        discard_log="discards.log",
    )
    discards = None if guest.discarded is None else covering(guest.discarded)
    return AuditInputs(reading, None, discards, replace(plain, **facts))


@dataclass(frozen=True)
class Recorded:
    """A run to record: its guest at each audit, and what is asked of it."""

    guests: Mapping[str, Guest] = field(default_factory=lambda: {"final": healthy()})
    expect: Mapping[str, str] = field(default_factory=lambda: RECLAIM)
    measured: frozenset[str] = frozenset()
    checks: tuple[str, ...] = ()
    """Expectations of the last audit."""
    verdict: bool = True
    """Whether the record is complete."""
    kept: bool = True
    """Whether the files of its audits are written."""

    def events(self, scenario: str) -> list[Event]:
        """Return all events but the verdict."""
        asked = Asked(expect=dict(self.expect), measured=self.measured)
        audits = [
            replace(guest.audited(t, name), report=inputs_of(guest, t).reduce()[0])
            for t, (name, guest) in enumerate(self.guests.items(), 50)
        ]
        if audits:
            audits[-1] = replace(audits[-1], checks=self.checks)
        last = list(self.guests.values())[-1:]
        events = a_run(audits=audits, settled_as=held_after(last[0]) if last else None)
        done = events.pop()
        assert isinstance(done, StepsDone)
        events.append(replace(done, events=len(events)))
        start = events[0]
        assert isinstance(start, RunStarted)
        plan = RunPlan({"name": scenario}, asked)
        events[0] = replace(start, scenario=scenario, harness="0.1.0", plan=plan)
        return events


def write_results(directory: Path, runs: Mapping[str, Recorded]) -> Path:
    """Write a results directory with these runs, each of a scenario of its own name."""
    directory.mkdir(parents=True, exist_ok=True)
    with Recorder(directory) as recorder:
        for run_id, run in runs.items():
            scenario = run_id.partition("@")[0]
            events: Sequence[Event] = run.events(scenario)
            if run.verdict:
                verdict = judged(events, run.expect, t=61.0, measured=run.measured)
                events = [*events, verdict]
            else:
                events = events[:-1]
            for event in events:
                recorder.emit(run_id, event)
            if run.kept:
                audits = [event for event in events if isinstance(event, Audited)]
                pairs = zip(audits, run.guests.values(), strict=True)
                for number, (event, guest) in enumerate(pairs, 1):
                    path = audit_path(directory / run_id, number, event.name)
                    save_audit(path, inputs_of(guest, event.report.at))
    return directory
