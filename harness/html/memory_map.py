# SPDX-License-Identifier: Apache-2.0
"""Compute a map of the guest's physical memory at an audit, with a cell for each block of pages.

It uses only the audit's pages and draws nothing. Where only the host was looked at, a cell tells
what the host holds of its block.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from harness.kernel.blocks import BoolArray
from harness.kernel.oracle import CELLS, PageClasses
from harness.kernel.pages import HostState, StateArray
from harness.kernel.zones import HUGE_PAGE, MAX_ORDER, Zone, effective_order, zone_name
from harness.record.address_map import RamPiece
from harness.record.audit_file import AuditInputs
from harness.units import PAGE_SIZE, format_size

COLUMNS = 32
"""Cells in a row of the map of a small guest, wide enough for a finger; others have 64."""

FEW_CELLS = 1024
"""The most cells of a map with `COLUMNS` columns."""

MOST_CELLS = 4096
"""The most cells of a map; a larger guest gets larger cells."""


class Kind(StrEnum):
    """What the colour of a cell stands for: the state of its pages on guest and host."""

    LOST = "lost"
    REPORTED_RESIDENT = "reported-resident"
    WAITING = "waiting"
    SMALL_RESIDENT = "small-resident"
    USED_RESIDENT = "used-resident"
    USED_ABSENT = "used-absent"
    REPORTED_ABSENT = "reported-absent"
    FREE_ABSENT = "free-absent"
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    ON_HOST = "on-host"
    OFF_HOST = "off-host"
    NOTHING = "nothing"


MEANING = {
    Kind.LOST: "in use, and the host has dropped it: data loss",
    Kind.REPORTED_RESIDENT: "reported, but the host still holds it",
    Kind.WAITING: "free in large blocks, not reported yet",
    Kind.SMALL_RESIDENT: "free, but below the reporting order or the watermark",
    Kind.USED_RESIDENT: "in use",
    Kind.USED_ABSENT: "in use, never written",
    Kind.REPORTED_ABSENT: "reported and given back",
    Kind.FREE_ABSENT: "free, and not on the host",
    Kind.OFFLINE: "in the balloon, or plugged but not online",
    Kind.UNKNOWN: "changed while it was read, or unreadable",
}
"""Meanings in the order of the legend; `Kind.NOTHING` is a hole in the guest's memory."""

HOST_MEANING = {
    Kind.ON_HOST: "held by the host, resident or swapped",
    Kind.OFF_HOST: "not held by the host",
}
"""Meanings where only the host was looked at."""

SHORT = {
    Kind.LOST: "lost",
    Kind.REPORTED_RESIDENT: "reported, still held",
    Kind.WAITING: "free, not reported",
    Kind.SMALL_RESIDENT: "free, not reportable",
    Kind.USED_RESIDENT: "in use",
    Kind.USED_ABSENT: "in use, never written",
    Kind.REPORTED_ABSENT: "reported, given back",
    Kind.FREE_ABSENT: "free, not on the host",
    Kind.OFFLINE: "offline",
    Kind.UNKNOWN: "unknown",
    Kind.ON_HOST: "on the host",
    Kind.OFF_HOST: "not on the host",
}
"""A few words for the contents of a block."""

_KIND_OF_CELL = {
    "nothing": Kind.NOTHING,
    "used_resident": Kind.USED_RESIDENT,
    "used_absent": Kind.USED_ABSENT,
    "free_small_resident": Kind.SMALL_RESIDENT,
    "free_small_absent": Kind.FREE_ABSENT,
    "free_large_resident": Kind.WAITING,
    "free_large_absent": Kind.FREE_ABSENT,
    "free_new_resident": Kind.WAITING,
    "free_new_absent": Kind.FREE_ABSENT,
    "reported_resident": Kind.REPORTED_RESIDENT,
    "reported_absent": Kind.REPORTED_ABSENT,
    "held_absent": Kind.LOST,
    "offline_resident": Kind.OFFLINE,
    "offline_absent": Kind.OFFLINE,
    "unstable": Kind.UNKNOWN,
    "unknown": Kind.UNKNOWN,
}
_KINDS = tuple(Kind)
_KIND_NUMBER = np.array([_KINDS.index(_KIND_OF_CELL[name]) for name in CELLS], np.uint8)
_NOTHING = _KINDS.index(Kind.NOTHING)
_KIND_OF_HOST = {
    HostState.ABSENT: Kind.OFF_HOST,
    HostState.RESIDENT: Kind.ON_HOST,
    HostState.SWAPPED: Kind.ON_HOST,
    HostState.ZERO: Kind.OFF_HOST,
    HostState.UNKNOWN: Kind.NOTHING,
}
_HOST_NUMBER = np.array([_KINDS.index(_KIND_OF_HOST[state]) for state in HostState], np.uint8)
_HUGE_PAGE_ORDER = (HUGE_PAGE // PAGE_SIZE).bit_length() - 1
_ALARMING = (_KINDS.index(Kind.LOST), _KINDS.index(Kind.REPORTED_RESIDENT))
"""Kinds of which a single page colours its whole cell; the first takes precedence."""


@dataclass(frozen=True)
class MapCell:
    """One cell of the map."""

    column: int
    row: int
    """Within its zone."""
    kind: Kind
    pfn: int
    """The first page frame of its block."""
    pages: tuple[tuple[Kind, int], ...]
    """Number of pages of each kind in it, largest first, without holes."""

    @property
    def text(self) -> str:
        """Contents of the block, shown when the pointer is on the cell."""
        sizes = [(format_size(count * PAGE_SIZE), kind) for kind, count in self.pages]
        return ", ".join(f"{size} {SHORT[kind]}" for size, kind in sizes)


@dataclass(frozen=True)
class ZoneBand:
    """The cells of one zone, row by row."""

    name: str
    """`node0/DMA32`."""
    node: int
    start_pfn: int
    end_pfn: int
    columns: int
    cell_bytes: int
    cells: tuple[MapCell, ...]
    """Those that contain memory; rows that are holes are left out."""

    @property
    def rows(self) -> int:
        return self.cells[-1].row + 1

    @property
    def by_kind(self) -> dict[Kind, list[MapCell]]:
        """The cells by kind, in the order of the legend."""
        found = {kind: [cell for cell in self.cells if cell.kind is kind] for kind in SHORT}
        return {kind: cells for kind, cells in found.items() if cells}

    @property
    def row_pfns(self) -> list[int]:
        """The first page frame of each row, even if it is in a hole."""
        row_pages = self.cell_bytes // PAGE_SIZE * self.columns
        first: dict[int, int] = {}
        for cell in self.cells:
            first.setdefault(cell.row, cell.pfn)
        return [pfn // row_pages * row_pages for pfn in first.values()]

    @property
    def texts(self) -> list[str]:
        """The different texts of cells."""
        return list(dict.fromkeys(cell.text for cell in self.cells))

    @property
    def text_runs(self) -> str:
        """The index into `texts` of each place, row by row: `INDEXxREPEATS ...`; -1 for a hole."""
        index = {text: number for number, text in enumerate(self.texts)}
        places = [-1] * (self.rows * self.columns)
        for cell in self.cells:
            places[cell.row * self.columns + cell.column] = index[cell.text]
        return " ".join(f"{n}x{len(list(run))}" for n, run in itertools.groupby(places))


@dataclass(frozen=True)
class MemoryMap:
    """The guest's memory at one audit."""

    cell_bytes: int
    bands: tuple[ZoneBand, ...]

    @property
    def cells(self) -> tuple[MapCell, ...]:
        return tuple(cell for band in self.bands for cell in band.cells)

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of any of its pages."""
        return {kind for band in self.bands for cell in band.cells for kind, _count in cell.pages}


@dataclass(frozen=True)
class _Span:
    """Page frames [start, end) with rows of their own; of them, those in `own` are drawn."""

    name: str
    node: int
    start: int
    end: int
    own: BoolArray


def draw_map(inputs: AuditInputs, lost_pfns: Sequence[int] = ()) -> MemoryMap:
    """Compute the map of an audit; `lost_pfns` are the pages that its report calls lost."""
    facts = inputs.facts
    return draw_classes(inputs.classify(), facts.zones, facts.reporting_order, lost_pfns)


def draw_classes(
    classes: PageClasses, zones: Sequence[Zone], order: int, lost_pfns: Sequence[int] = ()
) -> MemoryMap:
    """Compute the map of classified pages; `order`: the reporting order."""
    kinds = _KIND_NUMBER[classes.cells]
    kinds[[pfn for pfn in lost_pfns if 0 <= pfn < len(kinds)]] = _ALARMING[0]
    # Spans of interleaved nodes overlap; each page is drawn in its own zone.
    spans = [
        _Span(
            zone_name(zone),
            zone.node,
            zone.start_pfn,
            min(zone.start_pfn + zone.spanned, len(kinds)),
            classes.zones == zones.index(zone) + 1,
        )
        for zone in sorted((zone for zone in zones if zone.spanned), key=lambda z: z.start_pfn)
    ]
    return _draw(kinds, spans, order, sum(zone.present for zone in zones))


def draw_residency(states: StateArray, pieces: Sequence[RamPiece]) -> MemoryMap:
    """Compute the map of what the host holds of guest RAM. `states`: HostState by PFN."""
    everything = np.ones(len(states), np.bool_)
    spans = [
        _Span(piece.block, 0, piece.pfn_start, min(piece.pfn_end, len(states)), everything)
        for piece in pieces
    ]
    pages = sum(span.end - span.start for span in spans)
    return _draw(_HOST_NUMBER[states], spans, _HUGE_PAGE_ORDER, pages)


def _draw(
    kinds: npt.NDArray[np.uint8], spans: Sequence[_Span], order: int, present: int
) -> MemoryMap:
    order = _cell_order(present, order)
    columns = COLUMNS if present >> order <= FEW_CELLS else 2 * COLUMNS
    bands: list[ZoneBand] = []
    for span in spans:
        if span.start >= span.end:
            continue
        part = slice(span.start, span.end)
        own_kinds = np.where(span.own[part], kinds[part], np.uint8(_NOTHING))
        own = tuple(_cells(own_kinds, span.start, order, columns))
        if own:
            place = (span.start, span.end, columns, PAGE_SIZE << order)
            bands.append(ZoneBand(span.name, span.node, *place, own))
    return MemoryMap(PAGE_SIZE << order, tuple(bands))


def _cell_order(present: int, reporting_order: int) -> int:
    """Return the lowest order from the reporting order up with which the map is small enough."""
    order = min(effective_order(reporting_order), MAX_ORDER)
    while present >> order > MOST_CELLS:
        order += 1
    return order


def _cells(kinds: npt.NDArray[np.uint8], start: int, order: int, columns: int) -> Iterator[MapCell]:
    """Yield the cells of the page frames from `start` on, without rows that are holes."""
    size = 1 << order
    first = start >> order
    lows = np.arange(first, -(-(start + len(kinds)) >> order), dtype=np.int64) * size - start
    lows[0] = 0
    filled = np.flatnonzero(np.logical_or.reduceat(kinds != _NOTHING, lows))
    row, last_of_row = -1, -1
    for number in filled.tolist():
        block, low = first + number, int(lows[number])
        counts = np.bincount(kinds[low : (block + 1) * size - start], minlength=len(_KINDS))
        counts[_NOTHING] = 0
        if block // columns != last_of_row:
            row, last_of_row = row + 1, block // columns
        alarming = [kind for kind in _ALARMING if counts[kind]]
        most = np.argsort(-counts, kind="stable")
        yield MapCell(
            column=block % columns,
            row=row,
            kind=_KINDS[alarming[0] if alarming else int(most[0])],
            pfn=start + low,
            pages=tuple((_KINDS[n], int(counts[n])) for n in most if counts[n]),
        )
