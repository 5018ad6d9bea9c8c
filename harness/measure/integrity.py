# SPDX-License-Identifier: Apache-2.0
"""Measures of what must not happen: lost memory that the guest uses, and trouble on its console."""

from harness.measure.terms import Means, Measure, Rule, TakenBy, Unit, not_as_written
from harness.measure.usable import is_usable, of_report
from harness.record.history import History

_LOST = Means(Rule.LOST)
_NOTHING_LOST = Means(Rule.CONTROL, "no memory is lost although the scenario expects a loss")


def _held_absent(history: History) -> int | None:
    lost = max((audit.report.total.held_absent for audit in history.audits), default=0)
    looked = history.at_audits and all(_saw_what_was_held(then) for then in history.at_audits)
    return lost if lost or looked else None


def _saw_what_was_held(then: History) -> bool:
    """An audit that could judge too little tells nothing, unless there was nothing to lose."""
    return not then.held_by_churn or is_usable(then.audits[-1])


def _lost(history: History) -> int | None:
    losses = [audit.report.lost_bytes for audit in history.audits if audit.report.lost_bytes]
    if losses:
        return max(losses)
    looked = [is_usable(audit) and audit.report.lost_bytes == 0 for audit in history.audits]
    return 0 if looked and all(looked) else None


def _mismatched(history: History) -> int | None:
    checks = history.verifications
    wrong = sum(check.mismatched_pages + check.damaged for check in checks)
    looked = any(check.bytes for check in checks) and not any(check.unchecked for check in checks)
    return wrong if wrong or looked else None


def _findings(history: History) -> int | None:
    return len(history.troubles) if history.troubles or history.boots else None


MEASURES = (
    Measure(
        name="used_absent_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the guest uses and the host does not hold: never touched, or lost",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written(
            "the guest has touched more of the memory it uses than the scenario expects"
        ),
        means_when_high=_LOST,
        compute=of_report(lambda report: report.total.used_absent),
    ),
    Measure(
        name="held_absent_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the churn tool held and the host did not, in the worst of all audits",
        taken_by=TakenBy.AUDIT,
        means_when_low=_NOTHING_LOST,
        means_when_high=_LOST,
        compute=_held_absent,
    ),
    Measure(
        name="lost_bytes",
        unit=Unit.BYTES,
        meaning="bytes that any part of the guest uses and the host has lost, in the worst of all "
        "audits: certainly written and absent, or absent without a discard since they were "
        "resident",
        taken_by=TakenBy.AUDIT,
        means_when_low=_NOTHING_LOST,
        means_when_high=_LOST,
        compute=_lost,
    ),
    Measure(
        name="suspect_bytes",
        unit=Unit.BYTES,
        meaning="bytes that are used by the guest and absent on the host, and that an earlier "
        "audit saw used and resident",
        taken_by=TakenBy.AUDIT,
        means_when_low=_NOTHING_LOST,
        means_when_high=_LOST,
        compute=of_report(lambda report: report.suspect_bytes),
    ),
    Measure(
        name="integrity_mismatched_pages",
        unit=Unit.PAGES,
        meaning="pages that the guest tool found changed, in all checks of memory that `churn`, "
        "`busy` and `race` held; a damaged entry of the tool's own data counts as one page",
        means_when_low=_NOTHING_LOST,
        means_when_high=_LOST,
        compute=_mismatched,
    ),
    Measure(
        name="console_findings",
        unit=Unit.COUNT,
        meaning="number of crashes, hangs and warnings on the guest's console",
        means_when_low=not_as_written(
            "the guest's console shows less trouble than the scenario provokes"
        ),
        means_when_high=Means(Rule.CONSOLE),
        compute=_findings,
    ),
)
