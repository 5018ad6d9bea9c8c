# SPDX-License-Identifier: Apache-2.0
"""Zones and the rules of a reporting pass over them.

All rules are those of the Linux kernel's mm/page_reporting.c, unchanged from 5.7 to 7.x.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.units import MIB, PAGE_SIZE

MAX_ORDER = 10
"""Highest buddy order on x86: MAX_PAGE_ORDER (mm, 6.8 on), MAX_ORDER (6.4 to 6.7), MAX_ORDER - 1
(before, when the name meant the number of orders)."""

REPORTING_CAPACITY = 32
"""Blocks handed over in one call: PAGE_REPORTING_CAPACITY, include/linux/page_reporting.h."""

PASS_SECONDS = 2.0
"""Between two passes, and from a free to the first: PAGE_REPORTING_DELAY, mm/page_reporting.c. From
7.3 on it is only the default of `page_reporting_delay_ms`, which the guest tells."""

PASS_SHARE = 16
"""A pass makes DIV_ROUND_UP(nr_free, 32 * 16) calls for each free list: page_reporting_cycle()."""

HUGE_PAGE = 2 * MIB
"""HPAGE_PMD_SIZE on x86: what khugepaged collapses small pages into, absent ones included."""

NO_ZONE = 0
"""Index of pages in no zone; zone number i of a sequence has index i + 1."""


@dataclass(frozen=True)
class Zone:
    """One zone of one node, from /proc/zoneinfo and /proc/buddyinfo. Pages, not bytes."""

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    min: int
    low: int
    high: int
    free_blocks: tuple[int, ...]
    """Free blocks per order, index = order (buddyinfo)."""
    per_cpu: int
    """Free pages on the per-CPU lists: in no free list, so never reported and in no `free`."""


def effective_order(reporting_order: int) -> int:
    """The order as a bound for block orders: MAX_ORDER + 1 where nothing can be reported.

    A kernel in which no driver ever registered shows an order beyond MAX_ORDER (6.1: 11, later
    kernels: -1 as an unsigned number).
    """
    return reporting_order if 0 <= reporting_order <= MAX_ORDER else MAX_ORDER + 1


def block_size(reporting_order: int) -> int:
    """Bytes in a block of the order, or of the largest order where nothing can be reported."""
    return PAGE_SIZE << min(effective_order(reporting_order), MAX_ORDER)


def above_watermark(zone: Zone, reporting_order: int) -> bool:
    """Whether a reporting pass looks at this zone.

    page_reporting_process_zone() asks zone_watermark_ok() for low_wmark_pages(zone) +
    (PAGE_REPORTING_CAPACITY << order), which refuses while free <= that sum. The kernel also
    leaves pages reserved for high-order atomic allocations out of `free`; zoneinfo does not show
    them, so a zone within a few blocks of the watermark may be skipped although this says True.
    """
    order = effective_order(reporting_order)
    return order <= MAX_ORDER and zone.free > zone.low + (REPORTING_CAPACITY << order)


def passed_over(zone: Zone, reporting_order: int) -> int:
    """Pages of its free lists that a reporting pass leaves alone: all of a zone under its
    watermark, else those in blocks below the order."""
    if not above_watermark(zone, reporting_order):
        return zone.free
    small = zone.free_blocks[: effective_order(reporting_order)]
    return sum(count << order for order, count in enumerate(small))


def zone_name(zone: Zone) -> str:
    """`node0/DMA32`."""
    return f"node{zone.node}/{zone.name}"


def zone_index(zones: Sequence[Zone], pages: int) -> npt.NDArray[np.uint16]:
    """Index of the zone of each PFN, 1-based; NO_ZONE where no zone spans it.

    Spans of interleaved nodes overlap. The shorter span wins: a zone whose span encloses another
    has a hole there.
    """
    index = np.full(pages, NO_ZONE, dtype=np.uint16)
    for number, zone in sorted(enumerate(zones, 1), key=lambda pair: -pair[1].spanned):
        index[zone.start_pfn : zone.start_pfn + zone.spanned] = number
    return index


def zone_cuts(zones: Sequence[Zone]) -> tuple[int, ...]:
    """PFNs no block can span, because a zone begins or ends there."""
    return tuple(
        sorted(
            {zone.start_pfn for zone in zones if zone.spanned}
            | {zone.start_pfn + zone.spanned for zone in zones if zone.spanned}
        )
    )


def zone_tails(zones: Sequence[Zone], reporting_order: int, pages: int) -> npt.NDArray[np.bool_]:
    """Pages from the last boundary of a block of the order to the zone's end, of every zone.

    No free block of the order fits there, so nothing of it is ever reported.
    """
    tails = np.zeros(pages, dtype=np.bool_)
    block = 1 << min(effective_order(reporting_order), MAX_ORDER)
    for zone in zones:
        end = zone.start_pfn + zone.spanned
        if zone.spanned:
            tails[max(zone.start_pfn, end - end % block) : end] = True
    return tails
