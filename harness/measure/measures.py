# SPDX-License-Identifier: Apache-2.0
"""The registry of measures: every number of a run, by name.

docs/measures.md, the check of expectations, the units of values, and the cause of a failed
expectation all come from it. A measure that was not taken is absent, never 0. Page measures come
from the latest audit, and only if nothing moved memory after it and it could judge at least 95 %
of the guest's pages.
"""

from collections.abc import Iterable

from harness.measure import (
    allocator,
    cells,
    crowding,
    fault_costs,
    guest_facts,
    host_charges,
    integrity,
    places,
    reclaim,
    retention,
    running_costs,
    settle_times,
    step_measures,
)
from harness.measure.terms import Family, Measure, TakenBy, Unit
from harness.record.history import History

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measures in (
        reclaim.MEASURES,
        settle_times.MEASURES,
        cells.MEASURES,
        allocator.MEASURES,
        host_charges.MEASURES,
        integrity.MEASURES,
        places.MEASURES,
        retention.MEASURES,
        running_costs.MEASURES,
        step_measures.MEASURES,
        crowding.MEASURES,
        guest_facts.MEASURES,
    )
    for measure in measures
}
"""Every measure by name."""

FAMILIES: tuple[Family, ...] = (*places.FAMILIES, *settle_times.FAMILIES, *fault_costs.FAMILIES)
"""Families of measures, with a member for each place or way of measuring."""

AUDIT_MEASURES = frozenset(
    name for name, measure in MEASURES.items() if measure.taken_by is not TakenBy.RUN
)
"""Measures that need an audit, including those that `await` takes as well."""

TRACE_MEASURES = frozenset(
    name for name, measure in MEASURES.items() if measure.taken_by is TakenBy.TRACED_AUDIT
)
"""Measures that need QEMU's trace of discards."""

HOST_MEASURES = frozenset(
    name for name, measure in MEASURES.items() if measure.taken_by is TakenBy.AUDIT_OR_HOST
)
"""Measures of the host's mapping, which audits and `await` steps take."""

STEP_MEASURES = frozenset(measure.name for measure in (*step_measures.MEASURES, *crowding.MEASURES))
"""Measures that steps take, which a run without expectations shows as its answer."""

_UNIT_OF_ENDING = {
    f"_{unit}": each
    for unit, each in (
        ("per_second", Unit.PER_SECOND),
        ("gib_minutes", Unit.GIB_MINUTES),
        ("bytes", Unit.BYTES),
        ("seconds", Unit.SECONDS),
        ("fraction", Unit.FRACTION),
        ("ratio", Unit.RATIO),
        ("pages", Unit.PAGES),
    )
}


def registered(name: str) -> Measure | Family | None:
    """Return the measure of that name, or its family; None for a number that a step names."""
    if name in MEASURES:
        return MEASURES[name]
    return next((family for family in FAMILIES if family.has(name)), None)


def unit_of(name: str) -> Unit:
    """Return the unit of a measure, also for its value at an audit (`before.held_bytes`).

    For numbers that a scenario's steps name, the unit follows from the ending of the name.
    """
    plain = name.rpartition(".")[2]
    known = registered(plain)
    if known is not None:
        return known.unit
    ending = (unit for end, unit in _UNIT_OF_ENDING.items() if plain.endswith(end))
    return next(ending, Unit.COUNT)


def needs_audit(name: str) -> bool:
    """Whether the measure of that name needs a page audit."""
    known = registered(name)
    return known is not None and known.taken_by is not TakenBy.RUN


def measure(history: History) -> dict[str, float]:
    """Compute every measure that can be taken at this moment; bytes are whole numbers."""
    return {**_own(history), **_taken(MEASURES.values(), history), **_members(FAMILIES, history)}


def measured_by_steps(history: History) -> dict[str, float]:
    """Return what the run's steps measured, the answer of a run without expectations."""
    measures = (MEASURES[name] for name in MEASURES if name in STEP_MEASURES)
    families = (settle_times.FAMILIES, fault_costs.FAMILIES)
    return {
        **_own(history),
        **_taken((*measures, MEASURES["settle_t90_ratio"]), history),
        **_members((family for each in families for family in each), history),
    }


def _taken(measures: Iterable[Measure], history: History) -> dict[str, float]:
    values = ((measure.name, measure.compute(history)) for measure in measures)
    return {name: value for name, value in values if value is not None}


def _members(families: Iterable[Family], history: History) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in families:
        found |= family.compute(history)
    return found


def _own(history: History) -> dict[str, float]:
    """Return the numbers that steps name, the latest of each, unless a measure has the name."""
    return {own.name: own.value for own in history.own if registered(own.name) is None}
