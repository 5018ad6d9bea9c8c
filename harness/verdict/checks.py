# SPDX-License-Identifier: Apache-2.0
"""Evaluate the expectations of a run, each over the history up to its moment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.measure.measures import TRACE_MEASURES, measure, needs_audit
from harness.measure.usable import is_complete, is_usable
from harness.record.asked import AT_EVERY_AUDIT, IF_TAKEN, Asked
from harness.record.history import History
from harness.units import format_size
from harness.verdict.expressions import (
    Condition,
    Outcome,
    Status,
    check_name,
    evaluate,
    names_in,
    parse_check,
    parse_condition,
)


@dataclass(frozen=True)
class Check:
    """One expectation, judged over the history up to its moment."""

    where: str
    """The audit of a check in an `audit` step; empty for a check of the whole run."""
    history: History
    outcome: Outcome

    @property
    def fails(self) -> bool:
        return self.outcome.status is Status.FAILS

    @property
    def unknown(self) -> bool:
        return self.outcome.status is Status.UNKNOWN

    @property
    def name(self) -> str:
        """The measure, prefixed with the audit for a check in an `audit` step."""
        return f"{self.where}.{self.outcome.measure}" if self.where else self.outcome.measure

    @property
    def sentence(self) -> str:
        """A sentence that says what was found and what was expected."""
        where = f"at audit {self.where!r}: " if self.where else ""
        return where + self.outcome.sentence


def all_checks(history: History, asked: Asked) -> list[Check]:
    """Evaluate all checks in order of their moments.

    Raises `ValueError` for a check that cannot be parsed.
    """
    return [
        *audit_checks(history, asked),
        *(
            check
            for check in run_checks(history, asked, asked.conditions)
            if not (check.unknown and check.name in IF_TAKEN and check.name not in asked.expect)
        ),
    ]


def audit_checks(history: History, asked: Asked) -> Iterator[Check]:
    """Evaluate the checks in `audit` steps, and what must hold at every audit, over what was known
    at each.
    """
    known: dict[str, float] = {}
    always = {
        name: asked.invariants[name]
        for name in AT_EVERY_AUDIT
        if name in asked.invariants and name not in asked.expect
    }
    for then in history.at_audits:
        audit = then.audits[-1]
        values = measure(then)
        for text in audit.checks:
            name, condition = parse_check(text)
            yield _check(audit.name, then, name, condition, values | known, asked)
        for name in always:
            # The whole run is judged by the last audit, unless memory has changed since.
            if name in values and audit is not history.audit:
                yield _check(audit.name, then, name, parse_condition(always[name]), values, asked)
        known |= _at(audit.name, values)


def run_checks(history: History, asked: Asked, conditions: Mapping[str, str]) -> Iterator[Check]:
    """Evaluate conditions over the whole run."""
    values = values_now(history)
    for name, text in conditions.items():
        yield _check("", history, name, parse_condition(text), values, asked)


def values_now(history: History) -> dict[str, float]:
    """Return every measure at this moment, and its values at audits as `AUDIT.measure`."""
    values = measure(history)
    for then in history.at_audits:
        values |= _at(then.audits[-1].name, measure(then))
    return values


def _at(audit: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{audit}.{name}": value for name, value in values.items()}


def _check(
    where: str,
    history: History,
    name: str,
    condition: Condition,
    values: Mapping[str, float],
    asked: Asked,
) -> Check:
    for used in {name} | names_in(condition.expression):
        check_name(used.rpartition(".")[2], asked.measured)
    return Check(where, history, evaluate(name, condition, values))


def too_small_a_crowd(check: Check) -> str | None:
    """Say that a check on the number of guests cannot be judged because all that started fit."""
    full, asked = check.history.crowd_full, check.outcome
    if full is None or not full.all_fit or asked.measure != "crowd_guests":
        return None
    limits = asked.condition.comparison in ("<", "<=") and not check.fails
    if not limits and not asked.too_low:
        return None
    return (
        f"{full.why}, and whether more would have is not known, so this cannot be judged: "
        f"crowd_guests {asked.condition.text} (let `crowd` start more with its `most`)"
    )


def why_unknown(check: Check) -> str:
    """Say why measures were not taken, if that is known; else ""."""
    untraced = [boot.untraced for boot in check.history.boots if boot.untraced]
    if untraced and TRACE_MEASURES & set(check.outcome.missing):
        return f" (the discards of this QEMU cannot be traced: {untraced[0]})"
    if not any(needs_audit(name) for name in check.outcome.missing):
        return ""
    audit = check.history.audit
    if audit is None:
        taken = bool(check.history.audits)
        return " (memory changed after the last audit)" if taken else " (no audit was taken)"
    if is_usable(audit):
        return ""
    cells = audit.report.total
    if not is_complete(audit):
        return (
            f" (at audit {audit.name!r} the guest listed only "
            f"{format_size(audit.report.listed or 0)} of the "
            f"{format_size(audit.report.present or 0)} in its zones)"
        )
    return (
        f" (audit {audit.name!r} could not judge {format_size(cells.unstable)} that changed "
        f"during the audit and {format_size(cells.unknown)} without host state)"
    )
