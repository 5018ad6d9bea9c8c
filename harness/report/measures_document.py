# SPDX-License-Identifier: Apache-2.0
"""docs/measures.md: every measure of the registry, a row each."""

from harness.measure.measures import FAMILIES, MEASURES
from harness.measure.terms import Family, Measure, TakenBy
from harness.report.documents import render

_TAKEN = {
    TakenBy.RUN: "-",
    TakenBy.AUDIT: "audit",
    TakenBy.TRACED_AUDIT: "audit, trace",
    TakenBy.AUDIT_OR_HOST: "audit, await",
}


def measures_document() -> str:
    """docs/measures.md."""
    return render("measures.md.j2", measures=[*MEASURES.values(), *FAMILIES], cells=_cells)


def _cells(each: Measure | Family) -> list[str]:
    cells = (f"`{each.name}`", each.unit, each.meaning, _TAKEN[each.taken_by])
    return [cell.replace("|", r"\|") for cell in cells]
