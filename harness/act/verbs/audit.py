# SPDX-License-Identifier: Apache-2.0
"""Look at every page: what the guest says of it, and what the host holds of it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from harness.act.guest import Guest, Kept
from harness.act.verbs.churn import Held
from harness.act.verbs.settle import Drained, wait_settled
from harness.guest.counter_stream import read_counters
from harness.kernel.losses import DiscardCoverage
from harness.kernel.pages import AuditReport, StateArray
from harness.kernel.zones import block_size
from harness.observe.instruments import DiscardReader
from harness.observe.page_audit import take_audit
from harness.record.audit_file import AuditFacts, AuditInputs, save_audit
from harness.record.events import Audited
from harness.record.facts import DiscardTotals, GuestCounters, HostMapping
from harness.record.run_directory import audit_path
from harness.scenario.expectations import Expectations, unknown_names
from harness.scenario.fields import Name
from harness.scenario.steps import Situation, Verb
from harness.units import format_size
from harness.yamlfile import Loc

LATE_LOOKS = 3
"""After a settle that drained: blocks that merge only then are reported in a pass of their own."""

LATE_SECONDS = 30.0


class Audit(Verb):
    """Looks at every page from both sides, and keeps what it saw in `audits/`."""

    verb: ClassVar[str] = "audit"
    name: Name = "audit"
    """If it is a plain word, later expectations can refer to it: `before.held_bytes`."""
    expect: Expectations = Field(default_factory=dict)
    """Conditions on measures as they are at this audit, `{reported_resident_bytes: "== 0"}`."""

    @property
    def audit_name(self) -> str:
        """By which later expectations refer to it."""
        return self.name

    @property
    def checks(self) -> Mapping[str, str]:
        """What it expects."""
        return self.expect

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Names in its expectations that nothing measures before it."""
        for measure, why in unknown_names(self.expect, before.measured, before.audits):
            yield ("expect", measure), why

    def after(self, before: Situation) -> Situation:
        """Later expectations can refer to it."""
        return replace(before, audits=before.audits | {self.name})

    def in_words(self) -> str:
        """Its name; what it expects stands elsewhere."""
        return f"audit *{self.name}*"

    def perform(self, guest: Guest) -> None:
        """Record a page audit, with its pages in a file so that it can be judged again.

        Directly after a settle that drained it looks again if more than a block has become
        reportable since: no pass can have reported that yet. Not where something seems lost: that
        look counts.
        """
        drained_to = guest.kept(Drained).remaining(guest)
        guest.phase("audit", self.name)
        look = _look(guest)
        for _again in range(LATE_LOOKS - 1):
            report, late = look.report, look.report.total.free_large_resident
            lost = report.total.held_absent or report.lost_bytes or report.suspect_bytes
            settled = drained_to is None or late <= drained_to + block_size(guest.reporting_order)
            if lost or settled:
                break
            guest.phase("settle", f"again: {format_size(late)} have merged into blocks since")
            drained_to = wait_settled(guest, LATE_SECONDS).tracker.remaining
            look = _look(guest)
        audits = guest.kept(Audits)
        audits.taken += 1
        audits.seen = look.seen
        audits.began = (guest.instruments.discards, look.mark)
        sha256 = save_audit(audit_path(guest.directory, audits.taken, self.name), look.inputs)
        guest.record.add(
            Audited(
                guest.record.now(),
                name=self.name,
                report=look.report,
                counters=look.counters,
                mapping=look.mapping,
                discards=look.discards,
                checks=tuple(f"{measure}: {text}" for measure, text in self.expect.items()),
                sha256=sha256,
            )
        )


class Audits(Kept):
    """What the audits so far have seen."""

    def __init__(self) -> None:
        self.taken = 0
        """How many."""
        self.seen: StateArray | None = None
        """Of each page (`harness.kernel.pages.Seen`); None: nothing that counts any more."""
        self.moved = False
        """The guest came from another QEMU."""
        self.began: tuple[DiscardReader, int] | None = None
        """The moment before the latest one, in the log of discards that was open then."""

    def began_at(self, discards: DiscardReader) -> int:
        """That moment; 0, which is ever, where another log says nothing of it."""
        if self.began is None or self.began[0] is not discards:
            return 0
        return self.began[1]


@dataclass(frozen=True)
class _Look:
    """Every page, and what goes with it."""

    inputs: AuditInputs
    report: AuditReport
    seen: StateArray
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals | None
    mark: int
    """Names the moment before the look in the log of discards."""


def _look(guest: Guest) -> _Look:
    instruments, tool, audits = guest.instruments, guest.kept(Held).tool, guest.kept(Audits)
    held_by = (tool.pid,) if tool is not None else ()
    log = instruments.discards
    mark = log.mark()
    reading = take_audit(guest.vm.shell, instruments.residency, held_by=held_by)
    # After the pages: a block reported while they were read has its discard in the trace by now.
    discards = log.read()
    counters = read_counters(guest.vm.shell)
    # What is lazily free goes when the host wants it, however long ago it was discarded.
    earlier = 0 if guest.vm.spec.discard == "free" else audits.began_at(log)
    inputs = AuditInputs(
        reading=reading,
        seen=audits.seen,
        discards=None
        if log.untraced
        else DiscardCoverage(
            ever=log.covered,
            since_earlier=log.covered_since(earlier),
            during=log.covered_since(mark),
        ),
        facts=AuditFacts(
            at=guest.record.now(),
            zones=counters.zones,
            reporting_order=guest.reporting_order,
            moved=audits.moved,
            pieces=instruments.layout.pieces,
            held_by=held_by,
            discard_log=os.path.relpath(log.path, guest.directory),
        ),
    )
    report, seen = inputs.reduce()
    return _Look(inputs, report, seen, counters, instruments.mapping.read(), discards, mark)
