# SPDX-License-Identifier: Apache-2.0
"""Measures of each node and zone, and of the last, partial block of a zone."""

from collections.abc import Callable, Sequence
from typing import Literal

from harness.kernel.pages import CellTotals
from harness.kernel.zones import above_watermark, block_size, zone_name
from harness.measure.terms import Family, Means, Measure, Rule, TakenBy, Unit
from harness.measure.usable import of_report, usable_audit
from harness.record.events import Audited
from harness.record.history import History

GOOD, POOR = 0.9, 0.5
"""A message names places if some return at least `GOOD` of their memory and others less than
`POOR`."""

Kind = Literal["node", "zone"]

_PLACE, _CAME_BACK = Means(Rule.PLACE), Means(Rule.CAME_BACK)
_BELOW = Means(Rule.CONTROL, "a zone below its watermark reported memory")
_TAIL = Means(
    Rule.DAMAGE,
    "memory in the last, partial block of a zone was given away, although no block of the "
    "reporting order fits there",
)


def returned_fraction(cells: CellTotals, least: int) -> float | None:
    """Return the fraction of a place's reportable free memory that the host does not hold.

    None if there are less than `least` bytes of it.
    """
    gone = cells.reported_absent + cells.free_large_absent
    kept = cells.reported_resident + cells.free_large_resident
    return gone / (gone + kept) if gone + kept >= least else None


def returned_fractions(audit: Audited, kind: Kind, reporting_order: int) -> dict[str, float]:
    """Return the fraction by node or zone (`node0`, `node0/DMA32`) for those with a free block."""
    places = audit.report.per_node if kind == "node" else audit.report.per_zone
    least = block_size(reporting_order)
    return {
        name: fraction
        for name, cells in places.items()
        if (fraction := returned_fraction(cells, least)) is not None
    }


def place_sentence(audit: Audited, reporting_order: int) -> str | None:
    """Say which nodes or zones gave memory back and which did not; None if they do not differ."""
    kinds: tuple[Kind, ...] = ("node", "zone")
    for kind in kinds:
        fractions = returned_fractions(audit, kind, reporting_order)
        poor = [f"{name} {part:.0%}" for name, part in fractions.items() if part < POOR]
        good = [f"{name} {part:.0%}" for name, part in fractions.items() if part >= GOOD]
        if poor and good:
            return (
                f"only {len(good)} of {len(fractions)} {kind}s are reclaimed ({', '.join(good)} of "
                f"what each can report, but {', '.join(poor)})"
            )
    return None


def _fractions(kind: Kind) -> Callable[[History], dict[str, float]]:
    def compute(history: History) -> dict[str, float]:
        audit = usable_audit(history)
        if audit is None:
            return {}
        fractions = returned_fractions(audit, kind, history.order)
        return {
            f"{name.replace('/', '_')}_returned_fraction": part for name, part in fractions.items()
        }

    return compute


def _worst(kind: Kind) -> Callable[[History], float | None]:
    fractions = _fractions(kind)
    return lambda history: min(fractions(history).values(), default=None)


def below_watermark(history: History) -> int | None:
    """Return the bytes reported in zones that no audit has seen above their watermark."""
    audit = usable_audit(history)
    if audit is None:
        return None
    names = [zone_name(zone) for zone in audit.counters.zones]
    reported = 0
    for name in names:
        if not _ever_above(history.audits, name, history.order):
            cells = audit.report.per_zone[name]
            reported += cells.reported_resident + cells.reported_absent
    return reported


def _ever_above(audits: Sequence[Audited], name: str, reporting_order: int) -> bool:
    return any(
        above_watermark(zone, reporting_order)
        for audit in audits
        for zone in audit.counters.zones
        if zone_name(zone) == name
    )


def _rule_error(history: History) -> int | None:
    audit, below = usable_audit(history), below_watermark(history)
    if audit is None or below is None:
        return None
    unreported = sum(
        audit.report.per_zone[zone_name(zone)].free_large_resident
        for zone in audit.counters.zones
        if above_watermark(zone, history.order)
    )
    return unreported + below


MEASURES = (
    Measure(
        name="worst_node_returned_fraction",
        unit=Unit.FRACTION,
        meaning="fraction of a node's reportable free memory that the host does not hold, in the "
        "node where it is lowest",
        taken_by=TakenBy.AUDIT,
        means_when_low=_PLACE,
        means_when_high=_CAME_BACK,
        compute=_worst("node"),
    ),
    Measure(
        name="worst_zone_returned_fraction",
        unit=Unit.FRACTION,
        meaning="fraction of a zone's reportable free memory that the host does not hold, in the "
        "zone where it is lowest",
        taken_by=TakenBy.AUDIT,
        means_when_low=_PLACE,
        means_when_high=_CAME_BACK,
        compute=_worst("zone"),
    ),
    Measure(
        name="rule_error_bytes",
        unit=Unit.BYTES,
        meaning="bytes that contradict the watermark rule: unreported and resident in a zone above "
        "its watermark, or reported in a zone that no audit saw above its watermark",
        taken_by=TakenBy.AUDIT,
        means_when_low=Means(
            Rule.CONTROL, "the watermark rule holds although the scenario expects it to be broken"
        ),
        means_when_high=Means(Rule.WATERMARK),
        compute=_rule_error,
    ),
    Measure(
        name="below_watermark_reported_bytes",
        unit=Unit.BYTES,
        meaning="bytes reported in zones that no audit saw above their watermark",
        taken_by=TakenBy.AUDIT,
        means_when_low=Means(
            Rule.NOT_REPORTED, "a zone below its watermark reported less than the scenario expects"
        ),
        means_when_high=_BELOW,
        compute=below_watermark,
    ),
    Measure(
        name="tail_reported_bytes",
        unit=Unit.BYTES,
        meaning="bytes reported within the last, partial block of a zone",
        taken_by=TakenBy.AUDIT,
        means_when_low=Means(
            Rule.NOT_REPORTED,
            "the guest reported less of its zones' last, partial blocks than the scenario expects",
        ),
        means_when_high=_TAIL,
        compute=of_report(lambda report: report.tail_reported),
    ),
    Measure(
        name="tail_discarded_bytes",
        unit=Unit.BYTES,
        meaning="bytes within the last, partial block of a zone that QEMU ever discarded",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=Means(
            Rule.NOT_REPORTED,
            "QEMU discarded less of the zones' last, partial blocks than the scenario expects",
        ),
        means_when_high=_TAIL,
        compute=of_report(lambda report: report.tail_discarded),
    ),
)

FAMILIES = (
    Family(
        pattern=r"node\d+_returned_fraction",
        unit=Unit.FRACTION,
        meaning="fraction of this node's reportable free memory that the host does not hold",
        taken_by=TakenBy.AUDIT,
        means_when_low=_PLACE,
        means_when_high=_CAME_BACK,
        compute=_fractions("node"),
    ),
    Family(
        pattern=r"node\d+_[A-Z]\w*_returned_fraction",
        unit=Unit.FRACTION,
        meaning="fraction of this zone's reportable free memory that the host does not hold",
        taken_by=TakenBy.AUDIT,
        means_when_low=_PLACE,
        means_when_high=_CAME_BACK,
        compute=_fractions("zone"),
    ),
)
