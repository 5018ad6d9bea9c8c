# SPDX-License-Identifier: Apache-2.0
"""Look at every page: what the guest says of it, and what the host holds of it."""

from dataclasses import dataclass

from harness.act.session import GuestSession
from harness.act.settle import Watched, wait_settled
from harness.guest.counter_stream import read_counters
from harness.kernel.oracle import DiscardCoverage, reduce_audit
from harness.kernel.pages import AuditReport, StateArray
from harness.kernel.zones import block_size
from harness.observe.page_audit import take_audit
from harness.record.audit_file import AuditReading, save_audit
from harness.record.events import Audited
from harness.record.facts import DiscardTotals, GuestCounters, HostMapping
from harness.scenario.steps import AuditStep
from harness.units import format_size

LATE_LOOKS = 3
"""After a settle that drained: blocks that merge only then are reported in a pass of their own."""

LATE_SECONDS = 30.0


@dataclass(frozen=True)
class _Look:
    """Every page, and what goes with it."""

    reading: AuditReading
    report: AuditReport
    seen: StateArray
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals
    discards_mark: int
    """Names the moment before the look in the discard log."""


def audit(session: GuestSession, step: AuditStep) -> None:
    """Record a page audit, and keep its pages in `audits/` so that it can be judged again.

    Directly after a settle that drained it looks again if more than a block has become reportable
    since: no pass can have reported that yet. Not where something seems lost: that look counts.
    """
    drained_to = session.drained_to
    session.phase("audit", step.name)
    look = _look(session)
    for _again in range(LATE_LOOKS - 1):
        late = look.report.total.free_large_resident
        report = look.report
        lost = report.total.held_absent or report.lost_bytes or report.suspect_bytes
        settled = drained_to is None or late <= drained_to + block_size(session.reporting_order)
        if lost or settled:
            break
        session.phase("settle", f"again: {format_size(late)} have merged into blocks since")
        wait = wait_settled(Watched.of(session), LATE_SECONDS)
        drained_to = wait.tracker.remaining
        look = _look(session)
    session.seen = look.seen
    session.discards_mark = look.discards_mark
    session.audits += 1
    path = session.directory / "audits" / f"{session.audits:02}-{step.name}.npz"
    save_audit(path, look.reading)
    session.record.add(
        Audited(
            session.record.now(),
            name=step.name,
            report=look.report,
            counters=look.counters,
            mapping=look.mapping,
            discards=look.discards,
            checks=tuple(f"{measure}: {condition}" for measure, condition in step.expect.items()),
        )
    )


def _look(session: GuestSession) -> _Look:
    held_by = [session.churn.pid] if session.churn is not None else []
    mark = session.discards.mark()
    reading = take_audit(session.vm.shell, session.residency, held_by=held_by)
    # After the pages: a block reported while they were read has its discard in the trace by now.
    discards = session.discards.read()
    counters = read_counters(session.vm.shell)
    report, seen = reduce_audit(
        reading.before,
        reading.host,
        reading.after,
        zones=counters.zones,
        reporting_order=session.reporting_order,
        seen=session.seen,
        discards=DiscardCoverage(
            ever=session.discards.covered,
            # What is lazily free goes when the host wants it, however long ago it was discarded.
            since_earlier=session.discards.covered_since(
                0 if session.vm.spec.discard == "free" else session.discards_mark
            ),
            during=session.discards.covered_since(mark),
        ),
        moved=session.moved,
        at=session.record.now(),
        guest_seconds=reading.guest_seconds,
        host_seconds=reading.host_seconds,
    )
    return _Look(reading, report, seen, counters, session.mapping.read(), discards, mark)
