# SPDX-License-Identifier: Apache-2.0
"""The buddy blocks behind an array of page states.

/proc/kpageflags says of every page whether it is free, and marks the *head* of a free block that
has been reported; it does not say how large a block is. That follows from two rules of
mm/page_alloc.c:

- __free_one_page() merges a freed block with its buddy whenever both are free, of the same order
  and in the same zone. So at rest the blocks are the largest naturally aligned runs of free pages,
  up to MAX_ORDER. (At pageblock_order and above, an isolated, CMA or HIGHATOMIC pageblock is not
  merged with an ordinary one; such a pair looks like one block here.)
- Taking a block off its free list clears the reported flag (__del_page_from_free_list()), and both
  splitting and merging do that. So a reported block still has the very order it was reported with,
  which is at least the reporting order, and never lies inside a larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import GuestState, StateArray
from harness.kernel.zones import MAX_ORDER

BoolArray = npt.NDArray[np.bool_]

FEW = 4
"""Pages that a block may lack to be nearly free: more are a fragmentation of another kind."""

NO_ORDER = 0xFF
"""Order of a page that is in no free block."""


@dataclass(frozen=True)
class Blocks:
    """States with whole reported blocks, and the order of the free block of each page."""

    states: StateArray
    """As GuestState, REPORTED on every page of a reported block."""
    orders: npt.NDArray[np.uint8]
    """Same length; 0..MAX_ORDER for FREE and REPORTED pages, NO_ORDER elsewhere."""


def block_structure(wire: StateArray, cuts: Sequence[int] = ()) -> Blocks:
    """Find the blocks. `wire`: REPORTED on heads only; `cuts`: PFNs no block spans."""
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
    """Pages free in blocks of the order that lack no more than `FEW`, and how many those lack.

    `small`: pages free in blocks below the order; `used`: pages in use, as those on the per-CPU
    lists seem to be.
    """
    block = 1 << order
    end = len(small) // block * block
    free = np.count_nonzero(small[:end].reshape(-1, block), axis=1)
    lack = np.count_nonzero(used[:end].reshape(-1, block), axis=1)
    # A block of a few pages is never nearly free.
    nearly = (free + lack == block) & (lack > 0) & (lack <= min(FEW, block // 8))
    return int(free[nearly].sum()), int(lack[nearly].sum())


def _full_blocks(free: BoolArray, cuts: Sequence[int]) -> list[BoolArray]:
    """Per order k: which aligned blocks of 2^k pages are wholly free and span no cut."""
    levels = [free]
    for order in range(1, MAX_ORDER + 1):
        level = _pairs(levels[-1]) == 0x0101
        for cut in cuts:
            if cut & ((1 << order) - 1) and cut >> order < len(level):
                level[cut >> order] = False
        levels.append(level)
    return levels


def _blocks_with_one_head(heads: BoolArray, full: list[BoolArray]) -> list[BoolArray]:
    """Per order: the full blocks whose first page is a head and that contain no other head."""
    any_head, alone = heads, heads
    levels = [heads & full[0]]
    for order in range(1, MAX_ORDER + 1):
        alone = alone[0::2] & ~any_head[1::2]
        any_head = _pairs(any_head) != 0
        levels.append(alone & full[order])
    return levels


def _pairs(level: BoolArray) -> npt.NDArray[np.uint16]:
    """Two neighbouring flags as one number: 0x0101 if both are set, 0 if none is."""
    return np.ascontiguousarray(level).view(np.uint16)


def _largest(levels: list[BoolArray]) -> npt.NDArray[np.uint8]:
    """Per page, the highest order at which its block is set; NO_ORDER where none is."""
    result = np.where(levels[-1], np.uint8(MAX_ORDER), np.uint8(NO_ORDER))
    for order in range(MAX_ORDER - 1, -1, -1):
        result = np.repeat(result, 2)
        result[(result == NO_ORDER) & levels[order]] = order
    return result
