# SPDX-License-Identifier: Apache-2.0
"""Look at every page: what the guest says of it, and what the host holds of it."""

from harness.act.session import GuestSession
from harness.ledger.audit import reduce_audit
from harness.ledger.events import Audited
from harness.observe.audit import save_audit, take_audit
from harness.observe.counter_stream import read_counters
from harness.scenario.steps import AuditStep


def audit(session: GuestSession, step: AuditStep) -> None:
    """Record a page audit, and keep its pages in `audits/` so that it can be judged again."""
    session.phase("audit", step.name)
    record = session.record
    held_by = [session.churn.pid] if session.churn is not None else []
    reading = take_audit(session.vm.shell, session.residency, held_by=held_by)
    # After the pages: a block reported while they were read has its discard in the trace by now.
    discards = session.discards.read()
    counters = read_counters(session.vm.shell)
    mapping = session.mapping.read()
    session.audits += 1
    save_audit(session.directory / "audits" / f"{session.audits:02}-{step.name}.npz", reading)
    report, session.used_resident = reduce_audit(
        reading.before,
        reading.host,
        reading.after,
        zones=counters.zones,
        reporting_order=session.reporting_order,
        earlier_used_resident=session.used_resident,
        discarded=session.discards.covered,
        at=record.now(),
        guest_seconds=reading.guest_seconds,
        host_seconds=reading.host_seconds,
    )
    record.add(
        Audited(
            record.now(),
            name=step.name,
            report=report,
            counters=counters,
            mapping=mapping,
            discards=discards,
            checks=tuple(f"{measure}: {condition}" for measure, condition in step.expect.items()),
        )
    )
