# SPDX-License-Identifier: Apache-2.0
"""Decide whether an audit saw enough of the guest to be used.

An audit that is out of date, or could judge too few pages, yields no measures.
"""

from collections.abc import Callable
from dataclasses import fields

from harness.kernel.pages import AuditReport, CellTotals
from harness.kernel.zones import zone_name
from harness.record.events import Audited
from harness.record.history import History, Round

UNJUDGED_LIMIT = 0.05
"""Largest fraction of pages that may change during a usable audit, or have no host state."""

UNLISTED_LIMIT = 0.001
"""Largest fraction of the zones' present pages that the guest may leave out of a usable audit; five
kernels left out none."""


def judged_share(cells: CellTotals) -> float:
    """Return the fraction of the audited pages that could be judged; 0.0 without pages."""
    parts = {field.name: getattr(cells, field.name) for field in fields(cells)}
    del parts["held_absent"]  # part of used_absent
    total = sum(size for size in parts.values() if size is not None)
    return 1 - (cells.unstable + cells.unknown) / total if total else 0.0


def is_complete(audit: Audited) -> bool:
    """Whether the guest listed all pages of its zones; True if a recorded audit does not say."""
    listed, present = audit.report.listed, audit.report.present
    return not present or listed is None or listed >= (1 - UNLISTED_LIMIT) * present


def is_usable(audit: Audited) -> bool:
    """Whether an audit saw enough of the guest to be used."""
    zones = {zone_name(zone) for zone in audit.counters.zones}
    whole = is_complete(audit) and zones == set(audit.report.per_zone)
    return whole and judged_share(audit.report.total) >= 1 - UNJUDGED_LIMIT


def usable_audit(history: History) -> Audited | None:
    """Return the current audit if it is usable."""
    audit = history.audit
    return audit if audit is not None and is_usable(audit) else None


def usable_before(round_: Round) -> History | None:
    """Return the history at the last audit before a round's free, if that audit is usable."""
    before = round_.before
    return before if before is not None and is_usable(before.audits[-1]) else None


def of_report(pick: Callable[[AuditReport], float | None]) -> Callable[[History], float | None]:
    """Compute a measure from the report of the usable audit."""

    def compute(history: History) -> float | None:
        audit = usable_audit(history)
        return None if audit is None else pick(audit.report)

    return compute
