# SPDX-License-Identifier: Apache-2.0
"""Whether an audit saw enough of the guest to be believed.

An audit that is out of date or half blind has not looked: what it would say is not measured.
"""

from collections.abc import Callable
from dataclasses import fields

from harness.kernel.pages import AuditReport, CellTotals
from harness.kernel.zones import zone_name
from harness.record.events import Audited
from harness.record.history import History, Round

UNJUDGED_LIMIT = 0.05
"""Share of pages that may change during an audit, or have no host state, before it says nothing."""

UNLISTED_LIMIT = 0.001
"""Share of the zones' present pages that the guest may leave out. Seen: none, on five kernels."""


def judged_share(cells: CellTotals) -> float:
    """Share of the audited pages that could be judged; 0.0 for an audit of no pages."""
    parts = {field.name: getattr(cells, field.name) for field in fields(cells)}
    del parts["held_absent"]  # lies within used_absent
    total = sum(size for size in parts.values() if size is not None)
    return 1 - (cells.unstable + cells.unknown) / total if total else 0.0


def is_complete(audit: Audited) -> bool:
    """Whether the guest listed all pages that its zones have (recorded audits may not say)."""
    listed, present = audit.report.listed, audit.report.present
    return not present or listed is None or listed >= (1 - UNLISTED_LIMIT) * present


def is_usable(audit: Audited) -> bool:
    """Whether an audit saw enough of the guest to be believed."""
    zones = {zone_name(zone) for zone in audit.counters.zones}
    whole = is_complete(audit) and zones == set(audit.report.per_zone)
    return whole and judged_share(audit.report.total) >= 1 - UNJUDGED_LIMIT


def usable_audit(history: History) -> Audited | None:
    """The current audit, if it can be believed."""
    audit = history.audit
    return audit if audit is not None and is_usable(audit) else None


def usable_before(round_: Round) -> History | None:
    """As it was at the last audit before a round's free, if that audit can be believed."""
    before = round_.before
    return before if before is not None and is_usable(before.audits[-1]) else None


def of_report(pick: Callable[[AuditReport], float | None]) -> Callable[[History], float | None]:
    """A measure that the report of a usable audit has in it."""

    def compute(history: History) -> float | None:
        audit = usable_audit(history)
        return None if audit is None else pick(audit.report)

    return compute
