# SPDX-License-Identifier: Apache-2.0
"""Two ways to ask Linux for the state of every page of a range of another process.

`scan_pages` uses the PAGEMAP_SCAN ioctl (Linux 6.7), which returns runs of equal pages and knows
the shared zero page. `copy_pagemap` reads /proc/PID/pagemap, which every kernel has. It calls a
zero page present, but not mapped exactly once, because nothing counts who maps a zero page. A page
that KSM merged, or that another process maps too, looks the same: the caller must compare what it
finds with the mapping's Rss, which leaves out zero pages alone. Both ways need only the right to
trace the process (the same user).
"""

import ctypes
import fcntl
import mmap
import os
import struct
from contextlib import suppress
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import HostState, StateArray
from harness.units import MIB, PAGE_SIZE

# include/uapi/linux/fs.h, Linux 6.7: struct pm_scan_arg = size, flags, start, end, walk_end, vec,
# vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
# PAGEMAP_SCAN = _IOWR('f', 16, struct pm_scan_arg); struct page_region = start, end, categories.
_SCAN_ARGUMENT = struct.Struct("=12Q")
_PAGEMAP_SCAN = 3 << 30 | _SCAN_ARGUMENT.size << 16 | ord("f") << 8 | 16
_PAGE_IS_PRESENT = 1 << 3
_PAGE_IS_SWAPPED = 1 << 4
_PAGE_IS_PFNZERO = 1 << 5
_REGIONS = 1 << 16
"""Runs returned by one call: 1.5 MiB."""

_PAGEMAP_CHUNK = MIB
"""Bytes read by one call; larger gained nothing."""
# Documentation/admin-guide/mm/pagemap.rst: present, swapped, and mapped exactly once (Linux 4.2).
# That zero pages are not: pte_to_pagemap_entry() and pagemap_pmd_range() in fs/proc/task_mmu.c.
_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
_TOP_BYTE = 56
"""What of an entry is shifted out so that the bits above index the states."""


def _state_by_category() -> npt.NDArray[np.uint8]:
    states = np.full(64, HostState.ABSENT, dtype=np.uint8)
    categories = np.arange(64)
    states[categories & _PAGE_IS_SWAPPED != 0] = HostState.SWAPPED
    states[categories & _PAGE_IS_PRESENT != 0] = HostState.RESIDENT
    states[categories & _PAGE_IS_PFNZERO != 0] = HostState.ZERO
    return states


_SCAN_STATE = _state_by_category()


def _state_by_entry() -> npt.NDArray[np.uint8]:
    """State by the highest byte of a pagemap entry."""
    states = np.full(256, HostState.ABSENT, dtype=np.uint8)
    entries = np.arange(256, dtype=np.uint64) << np.uint64(_TOP_BYTE)
    present = entries & np.uint64(_ENTRY_PRESENT) != 0
    states[entries & np.uint64(_ENTRY_SWAPPED) != 0] = HostState.SWAPPED
    states[present] = HostState.RESIDENT
    states[present & (entries & np.uint64(_ENTRY_EXCLUSIVE) == 0)] = HostState.ZERO
    return states


_PAGEMAP_STATE = _state_by_entry()


def scan_pages(pagemap: int, start: int, states: StateArray) -> None:
    """Fill `states` for the pages from host virtual address `start` on, by PAGEMAP_SCAN.

    `pagemap` is a descriptor of /proc/PID/pagemap. Raises OSError: ENOTTY where the kernel is
    older than 6.7.
    """
    end = start + len(states) * PAGE_SIZE
    regions = np.empty((_REGIONS, 3), dtype=np.uint64)
    wanted = _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED
    states[:] = HostState.ABSENT
    at = start
    while at < end:
        vector = (regions.ctypes.data, _REGIONS)
        masks = (0, 0, wanted, wanted | _PAGE_IS_PFNZERO)
        argument = bytearray(
            _SCAN_ARGUMENT.pack(_SCAN_ARGUMENT.size, 0, at, end, 0, *vector, 0, *masks)
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        if count == 0:
            break
        # Run, gap, run, ..., run: the lengths are the differences of all the edges. They count
        # rather than walk_end, which Linux 6.18 leaves where its own buffer was full first.
        edges = regions[:count, :2].reshape(-1).astype(np.int64)
        values = np.full(2 * count - 1, HostState.ABSENT, dtype=np.uint8)
        values[::2] = _SCAN_STATE[regions[:count, 2]]
        first, at = int(edges[0]), int(edges[-1])
        states[(first - start) // PAGE_SIZE : (at - start) // PAGE_SIZE] = np.repeat(
            values, np.diff(edges) // PAGE_SIZE
        )


def copy_pagemap(pagemap: int, start: int, states: StateArray) -> None:
    """Fill `states` for the pages from host virtual address `start` on, by reading pagemap.

    ZERO stands for all that is present and not mapped exactly once. Raises OSError, also when the
    process has ended.
    """
    buffer = np.empty(_PAGEMAP_CHUNK // 8, dtype=np.uint64)
    done = 0
    while done < len(states):
        wanted = min(len(buffer), len(states) - done)
        size = os.preadv(pagemap, [buffer.data[:wanted]], (start // PAGE_SIZE + done) * 8)
        if size < buffer.itemsize:
            raise OSError("pagemap ended early: the process has gone")
        entries = buffer[: size // 8]
        states[done : done + len(entries)] = _PAGEMAP_STATE[entries >> np.uint64(_TOP_BYTE)]
        done += len(entries)


class ScanSupport(Enum):
    """What PAGEMAP_SCAN can do on this host."""

    NONE = "none"
    ZERO_PAGE = "zero page"
    """Tells the zero page, but calls the huge zero page present."""
    FULL = "zero page and huge zero page"


def scan_support() -> ScanSupport:
    """Try it on two pages of our own.

    Kernels from 6.7 to 6.15 call the huge zero page present (fixed by "fs/proc/task_mmu: fix
    PAGE_IS_PFNZERO detection for the huge zero folio", 6.16 and some stable kernels), so the
    only way to know is to map one and look.
    """
    huge = 2 * MIB
    with mmap.mmap(-1, 2 * huge, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # a kernel without transparent huge pages has no huge zero page
            memory.madvise(mmap.MADV_HUGEPAGE)
        anchor = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(anchor)
        del anchor
        offset = -start % huge
        memory[offset : offset + 1]  # the read fault maps it
        states = np.empty(1, dtype=np.uint8)
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
                scan_pages(pagemap.fileno(), start + offset, states)
        except OSError:
            return ScanSupport.NONE
    return ScanSupport.FULL if states[0] == HostState.ZERO else ScanSupport.ZERO_PAGE
