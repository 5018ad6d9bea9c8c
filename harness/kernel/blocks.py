# SPDX-License-Identifier: Apache-2.0
"""Finds the buddy blocks in an array of page states.

/proc/kpageflags tells whether each page is free and marks the *head* of each reported free block,
but not how large a block is. The size follows from two rules of mm/page_alloc.c:

- __free_one_page() merges a freed block with its buddy whenever both are free, of the same order
  and in the same zone. At rest, therefore, the blocks are the largest naturally aligned runs of
  free pages, up to MAX_ORDER. (At pageblock_order and above, the kernel does not merge an isolated,
  CMA or HIGHATOMIC pageblock with an ordinary one; such a pair looks like one block here.)
- Taking a block off its free list clears the reported flag (__del_page_from_free_list()), and both
  splitting and merging do that. A reported block therefore still has the order it was reported
  with, which is at least the reporting order, and never lies inside a larger block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import GuestState, StateArray
from harness.kernel.zones import MAX_ORDER

BoolArray = npt.NDArray[np.bool_]

FEW = 4
"""The most pages that may be missing from a nearly free block; with more missing, it counts as
fragmented."""

NO_ORDER = 0xFF
"""The order recorded for a page in no free block."""


@dataclass(frozen=True)
class Blocks:
    """Page states with every page of a reported block marked, and the order of each free block."""

    states: StateArray
    """GuestState by PFN; every page of a reported block is REPORTED."""
    orders: npt.NDArray[np.uint8]
    """Order of the page's free block, by PFN, same length: 0..MAX_ORDER for FREE and REPORTED
    pages, NO_ORDER elsewhere."""


def block_structure(wire: StateArray, cuts: Sequence[int] = ()) -> Blocks:
    """Find the free blocks.

    `wire`: GuestState by PFN as the guest tool sends it, REPORTED on heads only; `cuts`: PFNs that
    no block spans.
    """
    pages = len(wire)
    padded = np.full(-(-max(pages, 1) >> MAX_ORDER) << MAX_ORDER, GuestState.NO_PAGE, np.uint8)
    padded[:pages] = wire
    heads = padded == GuestState.REPORTED
    free = (padded == GuestState.FREE) | heads

    reported = _largest(_blocks_with_one_head(heads, _full_blocks(free, cuts)))
    in_reported = reported != NO_ORDER
    orders = _largest(_full_blocks(free & ~in_reported, cuts))
    np.copyto(orders, reported, where=in_reported)
    padded[in_reported] = GuestState.REPORTED
    return Blocks(states=padded[:pages], orders=orders[:pages])


def nearly_free(small: BoolArray, used: BoolArray, order: int) -> tuple[int, int]:
    """Count the free pages in nearly free blocks of `order`, and the pages missing from these.

    A nearly free block has at most `FEW` pages in use. `small`: by PFN, pages in free blocks below
    the order; `used`: by PFN, pages in use (pages on the per-CPU lists look used too).
    """
    block = 1 << order
    end = len(small) // block * block
    free = np.count_nonzero(small[:end].reshape(-1, block), axis=1)
    lack = np.count_nonzero(used[:end].reshape(-1, block), axis=1)
    # Small blocks tolerate fewer missing pages; blocks of less than 8 pages tolerate none.
    nearly = (free + lack == block) & (lack > 0) & (lack <= min(FEW, block // 8))
    return int(free[nearly].sum()), int(lack[nearly].sum())


def _full_blocks(free: BoolArray, cuts: Sequence[int]) -> list[BoolArray]:
    """For each order k: which aligned blocks of 2^k pages are entirely free and span no cut."""
    levels = [free]
    for order in range(1, MAX_ORDER + 1):
        level = _pairs(levels[-1]) == 0x0101
        for cut in cuts:
            if cut & ((1 << order) - 1) and cut >> order < len(level):
                level[cut >> order] = False
        levels.append(level)
    return levels


def _blocks_with_one_head(heads: BoolArray, full: list[BoolArray]) -> list[BoolArray]:
    """For each order: the full blocks whose first page is a head and that contain no other."""
    any_head, alone = heads, heads
    levels = [heads & full[0]]
    for order in range(1, MAX_ORDER + 1):
        alone = alone[0::2] & ~any_head[1::2]
        any_head = _pairs(any_head) != 0
        levels.append(alone & full[order])
    return levels


def _pairs(level: BoolArray) -> npt.NDArray[np.uint16]:
    """Read each two neighbouring flags as one number: 0x0101 if both are set, 0 if neither is."""
    return np.ascontiguousarray(level).view(np.uint16)


def _largest(levels: list[BoolArray]) -> npt.NDArray[np.uint8]:
    """For each page: the highest order at which its block is set; NO_ORDER where none is."""
    result = np.where(levels[-1], np.uint8(MAX_ORDER), np.uint8(NO_ORDER))
    for order in range(MAX_ORDER - 1, -1, -1):
        result = np.repeat(result, 2)
        result[(result == NO_ORDER) & levels[order]] = order
    return result
