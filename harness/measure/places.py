# SPDX-License-Identifier: Apache-2.0
"""Measures by place: every node, every zone, the last partial block of each."""

from collections.abc import Sequence

from harness.kernel.pages import CellTotals
from harness.kernel.zones import above_watermark, block_size, zone_name
from harness.record.events import Audited

PLACE_MEASURES: dict[str, str] = {
    "worst_node_returned_fraction": "of the free memory that a node can report, the part the host "
    "does not hold; of the node with the least",
    "worst_zone_returned_fraction": "the same for zones",
    "rule_error_bytes": "bytes that contradict the watermark rule: unreported and resident in a "
    "zone above its watermark, or reported in one that no audit saw above it",
    "below_watermark_reported_bytes": "the second part of it: reported where no audit saw the zone "
    "above its watermark",
    "tail_reported_bytes": "bytes reported within the last, partial block of a zone",
    "tail_discarded_bytes": "bytes there that QEMU ever discarded",
}

GOOD, POOR = 0.9, 0.5
"""Of two places one at least so good and the other poorer than that are told apart."""

PLACE_FAMILIES = {
    r"node\d+_returned_fraction": "of the free memory that one node can report, the part the "
    "host does not hold",
    r"node\d+_[A-Z]\w*_returned_fraction": "the same of one zone: node0_DMA32_returned_fraction",
}


def returned_fraction(cells: CellTotals, least: int) -> float | None:
    """Of the free memory of a place that can be reported, the part the host does not hold.

    None where there are less than `least` bytes of it.
    """
    gone = cells.reported_absent + cells.free_large_absent
    kept = cells.reported_resident + cells.free_large_resident
    return gone / (gone + kept) if gone + kept >= least else None


def place_measures(audits: Sequence[Audited], reporting_order: int) -> dict[str, float]:
    """The measures of the last of these audits, which can be believed."""
    report, zones = audits[-1].report, audits[-1].counters.zones
    block = block_size(reporting_order)
    found: dict[str, float] = {}
    for kind, places in (("node", report.per_node), ("zone", report.per_zone)):
        fractions = {
            name: fraction
            for name, cells in places.items()
            if (fraction := returned_fraction(cells, block)) is not None
        }
        for name, fraction in fractions.items():
            found[f"{name.replace('/', '_')}_returned_fraction"] = fraction
        if fractions:
            found[f"worst_{kind}_returned_fraction"] = min(fractions.values())
    unreported = below = 0
    for zone in zones:
        cells = report.per_zone[zone_name(zone)]
        if above_watermark(zone, reporting_order):
            unreported += cells.free_large_resident
        elif not _ever_above(audits, zone_name(zone), reporting_order):
            below += cells.reported_resident + cells.reported_absent
    found["rule_error_bytes"] = unreported + below
    found["below_watermark_reported_bytes"] = below
    if report.tail_reported is not None:
        found["tail_reported_bytes"] = report.tail_reported
    if report.tail_discarded is not None:
        found["tail_discarded_bytes"] = report.tail_discarded
    return found


def place_sentence(audit: Audited, reporting_order: int) -> str | None:
    """Which nodes or zones gave memory back and which did not, where they differ; else None."""
    block = block_size(reporting_order)
    for what, places in (("nodes", audit.report.per_node), ("zones", audit.report.per_zone)):
        fractions = {
            name: fraction
            for name, cells in places.items()
            if (fraction := returned_fraction(cells, block)) is not None
        }
        poor = [f"{name} {part:.0%}" for name, part in fractions.items() if part < POOR]
        good = [f"{name} {part:.0%}" for name, part in fractions.items() if part >= GOOD]
        if poor and good:
            return (
                f"only {len(good)} of {len(fractions)} {what} are reclaimed ({', '.join(good)} of "
                f"what each can report, but {', '.join(poor)})"
            )
    return None


def _ever_above(audits: Sequence[Audited], name: str, reporting_order: int) -> bool:
    return any(
        above_watermark(zone, reporting_order)
        for audit in audits
        for zone in audit.counters.zones
        if zone_name(zone) == name
    )
