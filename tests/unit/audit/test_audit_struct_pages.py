# SPDX-License-Identifier: Apache-2.0
"""Owners of pages, from arrays of `struct page` as Linux 6.1 and 6.12 lay them out."""

import struct

import numpy as np
import pytest

from harness.audit.struct_pages import BLOCK_PAGES, Kind, PageShape, kept_blocks, owners

BASE = 0xFFFFEA0000000000
CACHE, MAPPING, ANON = 0xFFFF888001234500, 0xFFFF888002345608, 0xFFFF888003456710
PG_SLAB = 9
NONE = 0xFFFFFFFF
OLD = PageShape(
    *(64, 0, 8, 24, 40, 48, 52, 24),
    slab_flag=PG_SLAB,
    types={Kind.FREE: (0xF0000080, 0xF0000000), Kind.PAGE_TABLE: (0xF0000200, 0xF0000000)},
)
NEW = PageShape(
    *(64, 0, 8, 24, 40, 48, 52, 8),
    slab_flag=None,
    types={
        Kind.FREE: (0xFF << 24, 0xF0 << 24),
        Kind.PAGE_TABLE: (0xFF << 24, 0xF2 << 24),
        Kind.SLAB: (0xFF << 24, 0xF5 << 24),
    },
)


def page(
    *,
    flags: int = 0,
    second: int = 0,
    mapping: int = 0,
    private: int = 0,
    kind: int = NONE,
    count: int = 1,
) -> bytes:
    """One `struct page`; `second`: compound_head, or slab_cache in 6.12."""
    return struct.pack("<QQQQQQIi8x", flags, second, 0, mapping, 0, private, kind, count)


def tail(head: int) -> bytes:
    return page(second=BASE + 64 * head + 1, count=0)


def test_each_kind_of_page_of_linux_6_1() -> None:
    pages = [
        page(mapping=ANON | 1),
        page(mapping=MAPPING),
        page(mapping=MAPPING | 2),  # a driver's movable page
        page(flags=1 << PG_SLAB, mapping=CACHE),
        tail(3),
        page(kind=NONE & ~0x200),
        page(),
        page(count=0),  # on a per-CPU list
        page(kind=NONE & ~0x80, private=2, count=0),
        *(page(mapping=ANON | 1) for _stale in range(3)),  # of the free block of order 2
        page(),
    ]
    assert owners(b"".join(pages), OLD, BASE).tolist() == [
        ANON | Kind.ANONYMOUS,
        MAPPING | Kind.FILE,
        Kind.KERNEL,
        CACHE | Kind.SLAB,
        CACHE | Kind.SLAB,
        Kind.PAGE_TABLE,
        Kind.KERNEL,
        Kind.FREE,
        *(Kind.FREE for _page in range(4)),
        Kind.KERNEL,
    ]


def test_page_types_of_linux_6_12() -> None:
    pages = [
        page(second=CACHE, kind=0xF5 << 24, count=0),
        tail(0),
        page(kind=0xF2 << 24),
        page(kind=0xF0 << 24, private=0, count=0),
        page(mapping=ANON | 1),
    ]
    assert owners(b"".join(pages), NEW, BASE).tolist() == [
        CACHE | Kind.SLAB,
        CACHE | Kind.SLAB,
        Kind.PAGE_TABLE,
        Kind.FREE,
        ANON | Kind.ANONYMOUS,
    ]


def test_a_tail_without_its_head_and_an_absurd_order_do_no_harm() -> None:
    pages = [tail(-5), page(kind=NONE & ~0x80, private=1 << 40, count=0), page()]
    assert owners(b"".join(pages), OLD, BASE).tolist() == [Kind.KERNEL, Kind.FREE, Kind.FREE]


@pytest.mark.parametrize("used", [1, 100])
def test_a_block_is_kept_by_the_largest_of_its_users(used: int) -> None:
    own = np.zeros(4 * BLOCK_PAGES, np.uint64)
    own[: 2 * used] = ANON | Kind.ANONYMOUS
    own[2 * used : 3 * used] = MAPPING | Kind.FILE
    own[BLOCK_PAGES : 2 * BLOCK_PAGES] = Kind.KERNEL  # in use as a whole: it keeps nothing free
    own[3 * BLOCK_PAGES] = CACHE | Kind.SLAB
    names, free = kept_blocks(own)
    assert names.tolist() == [ANON | Kind.ANONYMOUS, CACHE | Kind.SLAB]
    assert free.tolist() == [BLOCK_PAGES - 3 * used, BLOCK_PAGES - 1]


def test_without_blocks_that_are_partly_free_nobody_keeps_any() -> None:
    names, free = kept_blocks(np.zeros(2 * BLOCK_PAGES, np.uint64))
    assert (len(names), len(free)) == (0, 0)
