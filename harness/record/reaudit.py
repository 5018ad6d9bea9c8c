# SPDX-License-Identifier: Apache-2.0
"""Computes the audits of a recorded run again from their page states."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from harness.errors import ObserveError, RecordError
from harness.kernel.pages import AuditReport, CellTotals
from harness.record.audit_file import load_audit
from harness.record.events import Audited, Broke, Event
from harness.record.facts import Verdict
from harness.record.run_directory import audit_path
from harness.units import format_size


def audit_again(events: Sequence[Event], directory: Path) -> tuple[tuple[Event, ...], list[str]]:
    """Return the events of a run with each audit's report computed again, and remarks.

    A remark is a sentence for each audit whose report differs from the recorded one, or cannot be
    computed again; then the recorded report stays. If an audit's file is not the one that the run
    wrote, a `Broke` event is added before it, so that the run cannot pass.
    """
    made: list[Event] = []
    remarks: list[str] = []
    audits = 0
    for event in events:
        if isinstance(event, Audited):
            audits += 1
            path = audit_path(directory, audits, event.name)
            try:
                report = _report(path, event)
            except RecordError as error:
                remarks.append(f"audit {event.name!r}: {error.message} ({path})")
                made.append(
                    Broke(
                        event.t,
                        type(error).__name__,
                        Verdict.MISS,
                        f"audit {event.name!r}: {error.message}",
                        error.hint or "",
                    )
                )
            except ObserveError as error:
                remarks.append(
                    f"audit {event.name!r} keeps its recorded report: {error.message} ({path})"
                )
            else:
                differences = _differences(event.report, report)
                if differences:
                    what = ", ".join(differences)
                    remarks.append(
                        f"audit {event.name!r}: the report computed from its page states differs "
                        f"from the recorded one: {what}"
                    )
                event = replace(event, report=report)
        made.append(event)
    return tuple(made), remarks


def _report(path: Path, event: Audited) -> AuditReport:
    """Compute the report from the audit's file.

    Raises `ObserveError` if that is impossible, and `RecordError` if it is not the run's file.
    """
    inputs = load_audit(path, event.sha256)
    if inputs.facts.at != event.report.at:
        raise ObserveError(
            f"the file is of another audit, taken at {inputs.facts.at:.3f} s instead of "
            f"{event.report.at:.3f} s"
        )
    return inputs.reduce()[0]


def _differences(recorded: AuditReport, again: AuditReport) -> list[str]:
    """Name the cells of the guest's total that differ; if none does, the fields that differ.

    A field that the record lacks is of a later version, and no difference.
    """
    cells = [
        f"{cell.name} {_size(getattr(again.total, cell.name))}, "
        f"not {_size(getattr(recorded.total, cell.name))}"
        for cell in fields(CellTotals)
        if getattr(recorded.total, cell.name) != getattr(again.total, cell.name)
    ]
    return cells or [
        each.name
        for each in fields(AuditReport)
        if getattr(recorded, each.name) not in (None, getattr(again, each.name))
    ]


def _size(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)
