# SPDX-License-Identifier: Apache-2.0
"""The page oracle: compares the guest's state of each page with what the host holds.

The guest is read before and after the host, and only pages with the same state in both readings are
judged. A swapped-out page counts as resident (the host is still charged for it), a page mapped to
the zero page as absent. A held page mapped to the zero page, however, does not prove a loss: a host
that splits a huge page maps its zero-filled parts to the zero page (mm/huge_memory.c, 6.13), and
the churn tool's process has such pages besides its pattern. Verifying the pattern settles those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.kernel.blocks import NO_ORDER, BoolArray, block_structure, nearly_free
from harness.kernel.losses import (
    DiscardCoverage,
    Looked,
    collapsible,
    find_losses,
    padded_mask,
    seen_after,
    undiscarded,
    withheld,
)
from harness.kernel.pages import (
    AuditReport,
    CellTotals,
    GuestState,
    HostState,
    Seen,
    StateArray,
)
from harness.kernel.zones import (
    MAX_ORDER,
    NO_ZONE,
    Zone,
    above_watermark,
    block_size,
    effective_order,
    zone_cuts,
    zone_index,
    zone_name,
    zone_tails,
)
from harness.units import PAGE_SIZE

NEW_PASSES = 2.0
"""A free block may have missed this many passes: a pass that runs when the block is freed, and the
time until the next (page_reporting_process(), mm/page_reporting.c)."""

SHOWN_PFNS = 16
"""The most example PFNs that a report keeps of each kind of fault."""

# A page's class in the guest and on the host; the pair selects its cell.
_NONE, _USED, _HELD, _SMALL, _LARGE, _NEW, _REPORTED, _OFFLINE, _UNSTABLE = range(9)
_ABSENT, _RESIDENT, _UNKNOWN, _ZERO = range(4)

CELLS = (
    "nothing",
    "used_resident",
    "used_absent",
    "free_small_resident",
    "free_small_absent",
    "free_large_resident",
    "free_large_absent",
    "free_new_resident",
    "free_new_absent",
    "reported_resident",
    "reported_absent",
    "held_absent",
    "offline_resident",
    "offline_absent",
    "unstable",
    "unknown",
)
"""Names of the cells, as in `CellTotals`; `nothing`: the guest has no page there."""
_CELL_OF = np.array(
    [
        CELLS.index(name)
        for row in (
            ("nothing", "nothing", "nothing", "nothing"),
            ("used_absent", "used_resident", "unknown", "used_absent"),
            ("held_absent", "used_resident", "unknown", "used_absent"),
            ("free_small_absent", "free_small_resident", "unknown", "free_small_absent"),
            ("free_large_absent", "free_large_resident", "unknown", "free_large_absent"),
            ("free_new_absent", "free_new_resident", "unknown", "free_new_absent"),
            ("reported_absent", "reported_resident", "unknown", "reported_absent"),
            ("offline_absent", "offline_resident", "unknown", "offline_absent"),
            ("unstable", "unstable", "unstable", "unstable"),
        )
        for name in row
    ],
    dtype=np.uint8,
)
"""Cell number, indexed by guest class * 4 + host class."""

_NOTHING_SEEN: StateArray = np.zeros(0, np.uint8)

# HELD and CONTENT are USED: a new owner is no change of state.
_GUEST_CLASS = np.full(256, _UNSTABLE, np.uint8)
_GUEST_CLASS[[GuestState.USED, GuestState.HELD, GuestState.CONTENT]] = _USED
_GUEST_CLASS[GuestState.FREE] = _SMALL
_GUEST_CLASS[GuestState.REPORTED] = _REPORTED
_GUEST_CLASS[GuestState.NO_PAGE] = _NONE
_GUEST_CLASS[GuestState.OFFLINE] = _OFFLINE

_HOST_CLASS = np.full(256, _UNKNOWN, np.uint8)
_HOST_CLASS[HostState.ABSENT] = _ABSENT
_HOST_CLASS[HostState.ZERO] = _ZERO
_HOST_CLASS[[HostState.RESIDENT, HostState.SWAPPED]] = _RESIDENT


@dataclass(frozen=True, eq=False)
class PageClasses:
    """How each page is classified; arrays of equal length, index = PFN."""

    cells: npt.NDArray[np.uint8]
    """Cell of the oracle's table, as an index into `CELLS`."""
    orders: npt.NDArray[np.uint8]
    """Order of the page's free block, the lower of the two readings; NO_ORDER if it is free in
    neither."""
    zones: npt.NDArray[np.uint16]
    """As from `zone_index`."""
    guest: npt.NDArray[np.uint8]
    """Guest class over both readings: the row of the table."""
    host: npt.NDArray[np.uint8]
    """Host class: the column of the table."""


def classify(
    before: StateArray,
    host: StateArray,
    after: StateArray,
    zones: Sequence[Zone],
    reporting_order: int,
    recent: StateArray | None = None,
) -> PageClasses:
    """Find the cell of every page. Arguments as for `reduce_audit`."""
    pages = max(len(before), len(host), len(after))
    host_class = _HOST_CLASS[_padded(host, pages, HostState.UNKNOWN)]
    index = zone_index(zones, pages)
    guest_class, orders = _guest_classes(
        _padded(before, pages, GuestState.NO_PAGE),
        _padded(after, pages, GuestState.NO_PAGE),
        zones,
        index,
        reporting_order,
    )
    if recent is not None:
        was = _padded(recent, pages, Seen.NOTHING)
        reportable = (was == Seen.REPORTABLE_RESIDENT) | (was == Seen.REPORTABLE_ABSENT)
        guest_class[(guest_class == _LARGE) & ~reportable] = _NEW
    cells = _CELL_OF[guest_class * np.uint8(4) + host_class]
    return PageClasses(cells, orders, index, guest_class, host_class)


def reduce_audit(
    before: StateArray,
    host: StateArray,
    after: StateArray,
    *,
    zones: Sequence[Zone],
    reporting_order: int,
    seen: StateArray | None,
    discards: DiscardCoverage | None,
    recent: StateArray | None = None,
    moved: bool = False,
    at: float,
    guest_seconds: float,
    host_seconds: float,
) -> tuple[AuditReport, StateArray]:
    """Judge every page; return the report and the `seen` of the next audit.

    `before`, `after`: GuestState by PFN as the guest tool sends it, REPORTED on heads only;
    `host`: HostState by PFN, read between the two. Lengths may differ: a page missing from the
    guest's list is NO_PAGE, one missing from the host's is UNKNOWN.
    `seen`: `Seen` by PFN, as the previous audit returned it; None for the first audit.
    `discards`: None without QEMU's trace.
    `recent`: same as `seen` if the previous audit is less than two reporting passes old, else None.
    `moved`: the guest was migrated to this QEMU. Migration does not send pages of zeros, so that
    absence alone proves nothing.
    `at`, `guest_seconds`, `host_seconds`: copied into the report.
    """
    classes = classify(before, host, after, zones, reporting_order, recent)
    cells, orders, index = classes.cells, classes.orders, classes.zones
    guest_class, host_class = classes.guest, classes.host
    pages = len(cells)
    counts = np.bincount(
        index.astype(np.uint32) * len(CELLS) + cells,
        minlength=(len(zones) + 1) * len(CELLS),
    ).reshape(-1, len(CELLS))
    used = (guest_class == _USED) | (guest_class == _HELD)
    resident = host_class == _RESIDENT
    reported = guest_class == _REPORTED
    reportable = (guest_class == _LARGE) | (guest_class == _NEW)
    free = (guest_class == _SMALL) | reportable
    looked = Looked(
        used=used,
        free=free,
        reportable=reportable,
        written=padded_mask(_in_both(_has_content, before, after), pages),
        resident=resident,
        absent=host_class == _ABSENT,
        zero=host_class == _ZERO,
        seen=_padded(_NOTHING_SEEN if seen is None else seen, pages, Seen.NOTHING),
    )
    losses = find_losses(looked, discards, moved=moved)
    offline = guest_class == _OFFLINE
    refilled = collapsible(reported | offline, resident)
    nodes = sorted({zone.node for zone in zones})
    nearly, lack = _nearly_free(guest_class, reporting_order)
    tails = zone_tails(zones, reporting_order, pages)
    report = AuditReport(
        at=at,
        total=_totals(counts.sum(axis=0)),
        per_zone={
            zone_name(zone): _totals(row)
            for zone, row in zip(zones, counts[NO_ZONE + 1 :], strict=True)
        },
        per_node={
            f"node{node}": _totals(
                counts[[n for n, zone in enumerate(zones, 1) if zone.node == node]].sum(axis=0)
            )
            for node in nodes
        },
        reported_by_order=_by_order(orders[reported]),
        free_by_order=_by_order(orders[free]),
        suspect_bytes=_bytes(np.count_nonzero(losses.suspect)),
        suspect_pfns=_first(losses.suspect),
        reported_undiscarded=None
        if discards is None
        else _bytes(np.count_nonzero(undiscarded(reported, looked, discards))),
        guest_seconds=guest_seconds,
        host_seconds=host_seconds,
        reported_resident_pfns=_first(reported & resident),
        held_absent_pfns=_first(cells == CELLS.index("held_absent")),
        nearly_free=_bytes(nearly),
        nearly_free_lack=lack,
        collapsible=_bytes(np.count_nonzero(refilled & reported)),
        offline_collapsible=_bytes(np.count_nonzero(refilled & offline)),
        lost_bytes=_bytes(np.count_nonzero(losses.lost)),
        lost_undiscarded=_bytes(np.count_nonzero(losses.undiscarded)),
        lost_pfns=_first(losses.lost),
        listed=_bytes(len(guest_class) - np.count_nonzero(guest_class == _NONE)),
        present=_bytes(sum(zone.present for zone in zones)),
        tail_reported=_bytes(np.count_nonzero(reported & tails)),
        tail_discarded=None
        if discards is None
        else _bytes(np.count_nonzero(padded_mask(discards.ever, pages) & tails)),
        free_undiscarded=None
        if discards is None
        else _bytes(np.count_nonzero((guest_class == _LARGE) & ~padded_mask(discards.ever, pages))),
        withheld=None
        if discards is None
        else _bytes(np.count_nonzero(withheld(looked, discards, _block_pages(reporting_order)))),
    )
    return report, seen_after(looked)


def _guest_classes(
    before: StateArray,
    after: StateArray,
    zones: Sequence[Zone],
    index: npt.NDArray[np.uint16],
    reporting_order: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Find class and block order of each page over both readings; of two orders, the lower."""
    cuts = zone_cuts(zones)
    first, second = block_structure(before, cuts), block_structure(after, cuts)
    orders = np.minimum(first.orders, second.orders)
    # Index 0 is NO_ZONE: no watermark excuses a page in no known zone.
    watched = np.array([True] + [above_watermark(zone, reporting_order) for zone in zones])
    large = (orders >= effective_order(reporting_order)) & (orders != NO_ORDER) & watched[index]

    start, end = _GUEST_CLASS[first.states], _GUEST_CLASS[second.states]
    result = np.where(start == end, end, np.uint8(_UNSTABLE))
    result[(first.states == GuestState.HELD) & (second.states == GuestState.HELD)] = _HELD
    result[(result == _SMALL) & large] = _LARGE
    return result, orders


def _block_pages(reporting_order: int) -> int:
    return block_size(reporting_order) // PAGE_SIZE


def _nearly_free(guest_class: npt.NDArray[np.uint8], reporting_order: int) -> tuple[int, int]:
    """Count the free pages in nearly free blocks, and the pages missing from these blocks."""
    used = (guest_class == _USED) | (guest_class == _HELD)
    return nearly_free(
        guest_class == _SMALL, used, min(effective_order(reporting_order), MAX_ORDER)
    )


def _has_content(states: StateArray) -> BoolArray:
    """Find the pages that have certainly been written."""
    return np.equal(states, GuestState.HELD) | np.equal(states, GuestState.CONTENT)


def _in_both(
    test: Callable[[StateArray], BoolArray], before: StateArray, after: StateArray
) -> BoolArray:
    """Find the pages for which a test of the states holds in both readings."""
    length = min(len(before), len(after))
    return test(before[:length]) & test(after[:length])


def _padded(states: StateArray, pages: int, filler: int) -> StateArray:
    return np.pad(states, (0, pages - len(states)), constant_values=filler)


def _totals(counts: npt.NDArray[np.intp]) -> CellTotals:
    size = {name: _bytes(count) for name, count in zip(CELLS, counts, strict=True)}
    del size["nothing"]
    size["used_absent"] += size["held_absent"]
    return CellTotals(**size)


def _by_order(orders: npt.NDArray[np.uint8]) -> dict[int, int]:
    return {order: _bytes(count) for order, count in enumerate(np.bincount(orders)) if count}


def _first(mask: BoolArray) -> tuple[int, ...]:
    return tuple(int(pfn) for pfn in np.flatnonzero(mask)[:SHOWN_PFNS])


def _bytes(pages: int | np.intp) -> int:
    return int(pages) * PAGE_SIZE
