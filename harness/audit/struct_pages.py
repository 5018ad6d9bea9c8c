# SPDX-License-Identifier: Apache-2.0
"""Finds the owner of each page of a guest from the raw array of its kernel's `struct page`. Pure.

An owner is a number: the kernel's pointer to a slab cache, an address space or an anon_vma, which
ends with three zero bits, with the kind of the owner in them.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Owners = npt.NDArray[np.uint64]

BLOCK_PAGES = 512
"""Pages of a block of the usual reporting order, 2 MiB."""

_MOST_ORDER = 18
"""A higher order of a free block, 1 GiB, is damage."""


class Kind(IntEnum):
    """What kind of owner a page has."""

    FREE = 0
    SLAB = 1
    FILE = 2
    ANONYMOUS = 3
    PAGE_TABLE = 4
    KERNEL = 5


@dataclass(frozen=True)
class PageShape:
    """Where the members of the kernel's `struct page` lie, in bytes, and what marks its types."""

    size: int
    flags: int
    compound_head: int
    mapping: int
    private: int
    page_type: int
    refcount: int
    slab_cache: int
    slab_flag: int | None
    """The bit of `flags` on slab pages; None where they have a page type."""
    types: dict[Kind, tuple[int, int]]
    """(mask, value) of `page_type` for FREE, PAGE_TABLE and perhaps SLAB."""


def owners(raw: bytes, shape: PageShape, base: int) -> Owners:
    """Find the owner of each page from the array of its `struct page`, read from address `base` on.

    0 for a free page; a compound page must lie within `raw` as a whole, or its tails are the
    kernel's.
    """
    rows = np.frombuffer(raw, np.uint8).reshape(-1, shape.size)
    count = len(rows)
    head_word = _word(rows, shape.compound_head, np.uint64)
    number = np.arange(count, dtype=np.int64)
    tail = (head_word & np.uint64(1)).astype(np.bool_)
    at = (head_word - np.uint64(1) - np.uint64(base)).astype(np.int64) // shape.size
    known = tail & (at >= 0) & (at < number)
    head = np.where(known, at, number)
    own = _heads(rows, shape)[head]
    own[tail & ~known] = Kind.KERNEL
    free = np.flatnonzero(_is_type(rows, shape, Kind.FREE))
    orders = _word(rows, shape.private, np.uint64)[free]
    for first, order in zip(free.tolist(), orders.tolist(), strict=True):
        own[first : first + (1 << min(order, _MOST_ORDER))] = Kind.FREE
    return own


def _heads(rows: npt.NDArray[np.uint8], shape: PageShape) -> Owners:
    """Find the owner of each page as if it were no tail of another."""
    three = np.uint64(3)
    mapping = _word(rows, shape.mapping, np.uint64)
    pointer = mapping & ~np.uint64(7)
    own = np.full(len(rows), Kind.KERNEL, np.uint64)
    # include/linux/page-flags.h: PAGE_MAPPING_ANON, PAGE_MAPPING_MOVABLE (drivers' own pages).
    own = np.where((mapping & three == 0) & (pointer != 0), pointer | np.uint64(Kind.FILE), own)
    own = np.where(mapping & three == 1, pointer | np.uint64(Kind.ANONYMOUS), own)
    own = np.where(_is_type(rows, shape, Kind.PAGE_TABLE), np.uint64(Kind.PAGE_TABLE), own)
    cache = _word(rows, shape.slab_cache, np.uint64) & ~np.uint64(7)
    if shape.slab_flag is not None:
        flags = _word(rows, shape.flags, np.uint64)
        slab = (flags >> np.uint64(shape.slab_flag) & np.uint64(1)).astype(np.bool_)
    else:
        slab = _is_type(rows, shape, Kind.SLAB)
    own = np.where(slab, cache | np.uint64(Kind.SLAB), own)
    # Nobody holds it: on a per-CPU list, or no memory at all.
    unused = _word(rows, shape.refcount, np.int32) <= 0
    own[unused & ~slab] = Kind.FREE
    return own


def _is_type(rows: npt.NDArray[np.uint8], shape: PageShape, kind: Kind) -> npt.NDArray[np.bool_]:
    mask, value = shape.types[kind]
    found: npt.NDArray[np.bool_] = (
        _word(rows, shape.page_type, np.uint32) & np.uint32(mask)
    ) == np.uint32(value)
    return found


def _word(rows: npt.NDArray[np.uint8], offset: int, kind: type) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, offset : offset + size]).view(kind).reshape(-1)


def kept_blocks(own: Owners) -> tuple[Owners, npt.NDArray[np.int64]]:
    """Say who keeps each block that is partly free: (owner, free pages).

    It is the owner of the most of its pages in use.
    """
    whole = own[: len(own) // BLOCK_PAGES * BLOCK_PAGES].reshape(-1, BLOCK_PAGES)
    free = np.count_nonzero(whole == Kind.FREE, axis=1)
    partly = (free > 0) & (free < BLOCK_PAGES)
    names, numbers = np.unique(whole[partly], return_inverse=True)
    numbers = numbers.reshape(-1, BLOCK_PAGES)
    block = np.arange(len(numbers), dtype=np.int64)[:, None] * max(len(names), 1)
    used = names[numbers] != Kind.FREE
    pairs, counts = np.unique((block + numbers)[used], return_counts=True)
    order = np.lexsort((counts, pairs // max(len(names), 1)))
    last = np.flatnonzero(np.diff(pairs[order] // max(len(names), 1), append=-1))
    return names[pairs[order][last] % max(len(names), 1)], free[partly]
