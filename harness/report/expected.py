# SPDX-License-Identifier: Apache-2.0
"""What a recorded run was expected to do, and what is recorded of each expectation."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.record.events import Audited
from harness.record.facts import Verdict
from harness.record.recorded_run import RecordedRun
from harness.report.summary import RunSummary
from harness.verdict.expressions import (
    Status,
    evaluate,
    format_measure,
    parse_check,
    parse_condition,
)


@dataclass(frozen=True)
class Expected:
    """A condition and what was measured."""

    measure: str
    """Prefixed with the audit (`after.lazyfree_bytes`) for a condition of an `audit` step."""
    condition: str
    value: str
    """The measured value; empty if it was not measured."""
    failed: bool
    held: bool
    """Neither `failed` nor `held`: the record does not say."""


def run_expectations(run: RecordedRun, summary: RunSummary) -> Iterator[Expected]:
    """Yield the conditions on the whole run, as `summary` of it found them."""
    if run.started.plan is None:
        return
    for name, text in run.started.plan.asked.conditions.items():
        value = summary.measures.get(name)
        # The verdict of lost data or of a crash names no expectation, so they are evaluated here.
        status = evaluate(name, parse_condition(text), summary.measures).status
        failed = status is Status.FAILS or any(
            sentence.startswith(f"{name} ") for sentence in summary.failed
        )
        # A value at an audit (`before.held_bytes`) is not part of the record.
        vouched = value is not None and summary.verdict is Verdict.PASS
        yield Expected(
            name,
            text,
            "" if value is None else format_measure(name, value),
            failed,
            held=not failed and (status is Status.HOLDS or vouched),
        )


def audit_expectations(run: RecordedRun, summary: RunSummary) -> Iterator[Expected]:
    """Yield the conditions at single audits. Their values are not part of the record."""
    for audit in (event for event in run.events if isinstance(event, Audited)):
        for text in audit.checks:
            name, condition = parse_check(text)
            at = f"at audit {audit.name!r}: {name} "
            failed = any(sentence.startswith(at) for sentence in summary.failed)
            yield Expected(
                f"{audit.name}.{name}",
                condition.text.strip(),
                "",
                failed,
                held=not failed and summary.verdict is Verdict.PASS,
            )
