# SPDX-License-Identifier: Apache-2.0
"""The life of one page: what each audit saw of it, and each discard that covered it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.kernel.blocks import NO_ORDER, block_structure
from harness.kernel.oracle import CELLS
from harness.kernel.pages import GuestState, HostState, Seen
from harness.kernel.zones import Zone, above_watermark, zone_cuts
from harness.record.address_map import AddressMap, RamPiece
from harness.record.audit_file import AuditInputs
from harness.record.discard_lines import parse_discards, parse_failures
from harness.units import PAGE_SIZE


@dataclass(frozen=True)
class Block:
    """A free block of the buddy allocator: 2^order pages from PFN `first`."""

    first: int
    order: int

    @property
    def last(self) -> int:
        """The PFN of its last page."""
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
    """Its cell of the oracle's table (`harness.kernel.oracle.CELLS`)."""
    block: Block | None
    """Its free block in the second reading, or else in the first; None if it was free in
    neither."""
    zone: Zone | None
    above_watermark: bool
    """Whether a reporting pass works on its zone; True if it has none."""
    reporting_order: int
    held_by: tuple[int, ...]
    """Guest process ids, one of which maps the page; empty if none does."""
    seen: Seen
    """What earlier audits saw."""
    address: int | None
    """Its host virtual address in QEMU; None if QEMU has no RAM for it."""
    piece: RamPiece | None
    discard_log: str
    """QEMU's trace of discards, relative to the run's directory."""


@dataclass(frozen=True)
class CoveringDiscard:
    """A discard that covered the page."""

    at: float | None
    """Seconds since the run began; None if the line has no stamp."""
    file: str
    """The file that records it, relative to the run's directory."""
    line: int
    address: int | None
    """Host virtual address where it starts; None for a failed discard, which has no address."""
    length: int
    status: int
    """0, or a negative errno."""


def look_up(audit: str, inputs: AuditInputs, pfn: int) -> PageAtAudit | None:
    """Return what the audit saw of a page; None if it lies beyond the guest's last page."""
    reading, facts = inputs.reading, inputs.facts
    if pfn >= len(reading.host):
        return None
    cuts = zone_cuts(facts.zones)
    start, end = block_structure(reading.before, cuts), block_structure(reading.after, cuts)
    classes = inputs.classify()
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
    """Yield the discards in QEMU's trace that covered the whole page at a host address.

    `began`: start of the run, seconds since the epoch.
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
    """Yield the failed discards in QEMU's standard error over the page at a block's offset.

    `began`: start of the run, seconds since the epoch.
    """
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
