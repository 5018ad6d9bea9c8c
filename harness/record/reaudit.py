# SPDX-License-Identifier: Apache-2.0
"""The audits of a recorded run, computed again from their pages."""

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
    """The events of a run with each audit's report made anew, and a sentence for every audit where
    that gives another one, or cannot be done; the recorded report stands then.

    Where a file is not the one that the run wrote, the run breaks there: that can be no PASS.
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
                    f"audit {event.name!r} is judged by its recorded report: {error.message} "
                    f"({path})"
                )
            else:
                if report != event.report:
                    what = ", ".join(_differences(event.report, report))
                    remarks.append(
                        f"audit {event.name!r}: its pages give another report than the recorded "
                        f"one: {what}"
                    )
                event = replace(event, report=report)
        made.append(event)
    return tuple(made), remarks


def _report(path: Path, event: Audited) -> AuditReport:
    """Made from the audit's file. Raises `ObserveError` if that cannot be had, and `RecordError` if
    it is another."""
    inputs = load_audit(path, event.sha256)
    if inputs.facts.at != event.report.at:
        raise ObserveError(
            f"the file is of another audit, taken at {inputs.facts.at:.3f} s and not at "
            f"{event.report.at:.3f} s"
        )
    return inputs.reduce()[0]


def _differences(recorded: AuditReport, again: AuditReport) -> list[str]:
    """Each cell of the guest's total that differs; where none does, the fields."""
    cells = [
        f"{cell.name} {_size(getattr(again.total, cell.name))}, "
        f"not {_size(getattr(recorded.total, cell.name))}"
        for cell in fields(CellTotals)
        if getattr(recorded.total, cell.name) != getattr(again.total, cell.name)
    ]
    return cells or [
        each.name
        for each in fields(AuditReport)
        if getattr(recorded, each.name) != getattr(again, each.name)
    ]


def _size(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)
