# SPDX-License-Identifier: Apache-2.0
"""The life of one page: what each audit saw of it, and each discard that covered it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.kernel.blocks import NO_ORDER, block_structure
from harness.kernel.oracle import CELLS, classify
from harness.kernel.pages import GuestState, HostState, Seen
from harness.kernel.zones import Zone, above_watermark, zone_cuts
from harness.record.address_map import AddressMap, RamPiece
from harness.record.audit_file import AuditInputs
from harness.record.discard_lines import parse_discards, parse_failures
from harness.units import PAGE_SIZE


@dataclass(frozen=True)
class Block:
    """A free block of the buddy allocator: 2^order pages from `first` on."""

    first: int
    order: int

    @property
    def last(self) -> int:
        """Its last page frame."""
        return self.first + (1 << self.order) - 1


@dataclass(frozen=True)
class PageAtAudit:
    """One page as an audit saw it."""

    audit: str
    at: float
    """Seconds since the run began."""
    before: GuestState
    """Read before the host; REPORTED on every page of a reported block."""
    host: HostState
    after: GuestState
    cell: str
    """Of the oracle's table (`harness.kernel.oracle.CELLS`)."""
    block: Block | None
    """Its free block at the second reading, else at the first; None: it was free in neither."""
    zone: Zone | None
    above_watermark: bool
    """Whether a reporting pass looks at that zone; True where there is none."""
    reporting_order: int
    held_by: tuple[int, ...]
    """Processes of the churn tool one of which maps it; empty: none does."""
    seen: Seen
    """What the audits before it saw."""
    address: int | None
    """Where it lies in the memory of the QEMU that was looked at; None: nowhere."""
    piece: RamPiece | None
    discard_log: str
    """That QEMU's trace, from the run's directory."""


@dataclass(frozen=True)
class CoveringDiscard:
    """A discard of memory that the page lies in."""

    at: float | None
    """Seconds since the run began; None: the line has no stamp."""
    file: str
    """Where it stands, from the run's directory."""
    line: int
    address: int | None
    """Where it began in QEMU's memory; None: a failure, which names an offset in its block."""
    length: int
    status: int
    """0, or a negative errno."""


def look_up(audit: str, inputs: AuditInputs, pfn: int) -> PageAtAudit | None:
    """What the audit saw of a page; None for one beyond the guest's last."""
    reading, facts = inputs.reading, inputs.facts
    if pfn >= len(reading.host):
        return None
    cuts = zone_cuts(facts.zones)
    start, end = block_structure(reading.before, cuts), block_structure(reading.after, cuts)
    classes = classify(
        reading.before, reading.host, reading.after, facts.zones, facts.reporting_order
    )
    before, after = GuestState(int(start.states[pfn])), GuestState(int(end.states[pfn]))
    order = next((int(b.orders[pfn]) for b in (end, start) if b.orders[pfn] != NO_ORDER), None)
    number = int(classes.zones[pfn])
    zone = facts.zones[number - 1] if number else None
    piece = AddressMap(facts.pieces).piece_of(pfn)
    return PageAtAudit(
        audit=audit,
        at=facts.at,
        before=before,
        host=HostState(int(reading.host[pfn])),
        after=after,
        cell=CELLS[int(classes.cells[pfn])],
        block=None if order is None else Block(pfn >> order << order, order),
        zone=zone,
        above_watermark=zone is None or above_watermark(zone, facts.reporting_order),
        reporting_order=facts.reporting_order,
        held_by=facts.held_by if GuestState.HELD in (before, after) else (),
        seen=Seen.NOTHING if inputs.seen is None else Seen(int(inputs.seen[pfn])),
        address=None if piece is None else piece.hva + (pfn - piece.pfn_start) * PAGE_SIZE,
        piece=piece,
        discard_log=facts.discard_log,
    )


def discards_of(
    lines: Iterable[bytes], file: str, address: int, began: float
) -> Iterator[CoveringDiscard]:
    """The discards in QEMU's trace that covered the whole page at a host address.

    `began`: the run's beginning, seconds since 1970.
    """
    for number, line in enumerate(lines, 1):
        for found in parse_discards(line):
            if found.address <= address and address + PAGE_SIZE <= found.address + found.length:
                yield CoveringDiscard(
                    at=None if found.at is None else found.at - began,
                    file=file,
                    line=number,
                    address=found.address,
                    length=found.length,
                    status=found.status,
                )


def failures_of(
    lines: Iterable[bytes], file: str, ram_block: str, offset: int, began: float
) -> Iterator[CoveringDiscard]:
    """The discards that failed, by QEMU's standard error, over the page at an offset of a block."""
    for number, line in enumerate(lines, 1):
        for found in parse_failures(line):
            same = found.block.rpartition("/")[2] == ram_block
            if same and found.offset <= offset < found.offset + found.length:
                yield CoveringDiscard(
                    at=None if found.at is None else found.at - began,
                    file=file,
                    line=number,
                    address=None,
                    length=found.length,
                    status=found.status,
                )
