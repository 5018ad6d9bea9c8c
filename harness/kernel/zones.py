# SPDX-License-Identifier: Apache-2.0
"""Zones, and the rules by which a reporting pass works on them.

The rules are those of the Linux kernel's mm/page_reporting.c, unchanged from 5.7 to 7.x.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.units import MIB, PAGE_SIZE

MAX_ORDER = 10
"""Highest buddy order on x86 (include/linux/mmzone.h): MAX_PAGE_ORDER from 6.8, MAX_ORDER from 6.4
to 6.7, MAX_ORDER - 1 up to 6.3, where MAX_ORDER is the number of orders."""

REPORTING_CAPACITY = 32
"""Blocks reported in one call: PAGE_REPORTING_CAPACITY, include/linux/page_reporting.h. From
7.2 the driver may set fewer, which `harness.observe.reporting_capacity` reads and refuses."""

PASS_SECONDS = 2.0
"""Time between two passes, and from a free to the first pass: PAGE_REPORTING_DELAY,
mm/page_reporting.c. From 7.3 it is the default of the parameter `page_reporting_delay_ms`, which
the harness reads from the guest."""

PASS_SHARE = 16
"""A pass makes DIV_ROUND_UP(nr_free, 32 * 16) calls for each free list: page_reporting_cycle(),
mm/page_reporting.c."""

HUGE_PAGE = 2 * MIB
"""HPAGE_PMD_SIZE on x86: the size into which khugepaged collapses small pages, filling in absent
ones."""

NO_ZONE = 0
"""Index of a page in no zone; zone i of a sequence has index i + 1."""


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
    """Number of free blocks by order (buddyinfo)."""
    per_cpu: int
    """Free pages on the per-CPU lists: on no buddy free list, so not reported or part of `free`."""


def effective_order(reporting_order: int) -> int:
    """Return the lowest order that can be reported; MAX_ORDER + 1 if nothing can be.

    Where no driver ever registered, the kernel shows an order beyond MAX_ORDER (6.1: 11; later
    kernels: -1 as an unsigned number).
    """
    return reporting_order if 0 <= reporting_order <= MAX_ORDER else MAX_ORDER + 1


def blocks_per_pass(free_blocks: int) -> int:
    """Return how many blocks of one free list a pass reports at most.

    page_reporting_cycle() (mm/page_reporting.c) takes DIV_ROUND_UP(nr_free, 32 * 16) as its budget,
    `free_blocks` being nr_free, and stops at the first block after the budget has become negative:
    after one call more than the budget, of 32 blocks each.
    """
    budget = -(-free_blocks // (REPORTING_CAPACITY * PASS_SHARE))
    return (budget + 1) * REPORTING_CAPACITY


def block_size(reporting_order: int) -> int:
    """Return the bytes in a block of the order; of MAX_ORDER if nothing can be reported."""
    return PAGE_SIZE << min(effective_order(reporting_order), MAX_ORDER)


def above_watermark(zone: Zone, reporting_order: int) -> bool:
    """Tell whether a reporting pass works on this zone.

    page_reporting_process_zone() (mm/page_reporting.c) calls zone_watermark_ok() with
    low_wmark_pages(zone) + (PAGE_REPORTING_CAPACITY << order), which fails while free <= that sum.
    The kernel does not count pages reserved for high-order atomic allocations as free; zoneinfo
    does not show them, so a pass may skip a zone within a few blocks of the watermark although
    this returns True.
    """
    order = effective_order(reporting_order)
    return order <= MAX_ORDER and zone.free > zone.low + (REPORTING_CAPACITY << order)


def ever_reportable(zone: Zone, reporting_order: int) -> bool:
    """Whether a zone is large enough that a reporting pass can ever look at it."""
    order = effective_order(reporting_order)
    return order <= MAX_ORDER and zone.managed > zone.low + (REPORTING_CAPACITY << order)


def passed_over(zone: Zone, reporting_order: int) -> int:
    """Count the free pages that a reporting pass skips.

    All of them in a zone below its watermark, otherwise those in blocks below the order.
    """
    if not above_watermark(zone, reporting_order):
        return zone.free
    small = zone.free_blocks[: effective_order(reporting_order)]
    return sum(count << order for order, count in enumerate(small))


def zone_name(zone: Zone) -> str:
    """Return the name of the zone in reports, as `node0/DMA32`."""
    return f"node{zone.node}/{zone.name}"


def zone_index(zones: Sequence[Zone], pages: int) -> npt.NDArray[np.uint16]:
    """Find the zone of each PFN, as a 1-based index into `zones`; NO_ZONE where no zone spans it.

    The spans of interleaved nodes overlap. The shorter span wins: a zone whose span encloses
    another zone's has a hole there.
    """
    index = np.full(pages, NO_ZONE, dtype=np.uint16)
    for number, zone in sorted(enumerate(zones, 1), key=lambda pair: -pair[1].spanned):
        index[zone.start_pfn : zone.start_pfn + zone.spanned] = number
    return index


def zone_cuts(zones: Sequence[Zone]) -> tuple[int, ...]:
    """List the PFNs where a zone begins or ends, which no block spans."""
    return tuple(
        sorted(
            {zone.start_pfn for zone in zones if zone.spanned}
            | {zone.start_pfn + zone.spanned for zone in zones if zone.spanned}
        )
    )


def zone_tails(zones: Sequence[Zone], reporting_order: int, pages: int) -> npt.NDArray[np.bool_]:
    """Find the tail of every zone: the pages from its last block boundary of the order to its end.

    No free block of the order fits there, so the kernel never reports any of it.
    """
    tails = np.zeros(pages, dtype=np.bool_)
    block = 1 << min(effective_order(reporting_order), MAX_ORDER)
    for zone in zones:
        end = zone.start_pfn + zone.spanned
        if zone.spanned:
            tails[max(zone.start_pfn, end - end % block) : end] = True
    return tails
