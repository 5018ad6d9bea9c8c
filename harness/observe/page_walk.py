# SPDX-License-Identifier: Apache-2.0
"""Reads the state of every page in a range of another process, in one of two ways.

`scan_pages` uses the PAGEMAP_SCAN ioctl (Linux 6.7), which returns runs of equal pages and
recognizes the shared zero page. `copy_pagemap` reads /proc/PID/pagemap, which exists on every
kernel. It shows a zero page as present but not mapped exactly once, because the kernel does not
count the mappings of zero pages. A page that KSM merged, or that another process maps too, looks
the same, so the caller must compare the result with the mapping's Rss, which excludes only zero
pages. Both ways need only permission to trace the process (same user).
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
from harness.units import GIB, MIB, PAGE_SIZE

# include/uapi/linux/fs.h, Linux 6.7: struct pm_scan_arg = size, flags, start, end, walk_end, vec,
# vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
# PAGEMAP_SCAN = _IOWR('f', 16, struct pm_scan_arg); struct page_region = start, end, categories.
_SCAN_ARGUMENT = struct.Struct("=12Q")
_PAGEMAP_SCAN = 3 << 30 | _SCAN_ARGUMENT.size << 16 | ord("f") << 8 | 16
_PAGE_IS_PRESENT = 1 << 3
_PAGE_IS_SWAPPED = 1 << 4
_PAGE_IS_PFNZERO = 1 << 5
_REGIONS = 1 << 16
"""The most runs returned by one call; takes 1.5 MiB."""
_SCANNED = 4 * GIB
"""Bytes scanned by one call: their states are made of the runs before they are copied."""

_PAGEMAP_CHUNK = MIB
"""Bytes read by one call; larger chunks were measured to be no faster."""
# Documentation/admin-guide/mm/pagemap.rst: present, swapped, and mapped exactly once (Linux 4.2).
# Zero pages lack the last: pte_to_pagemap_entry() and pagemap_pmd_range() in fs/proc/task_mmu.c.
_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
_TOP_BYTE = 56
"""Bits to shift out of an entry, so that the rest indexes the states."""


def _state_by_category() -> npt.NDArray[np.uint8]:
    states = np.full(64, HostState.ABSENT, dtype=np.uint8)
    categories = np.arange(64)
    states[categories & _PAGE_IS_SWAPPED != 0] = HostState.SWAPPED
    states[categories & _PAGE_IS_PRESENT != 0] = HostState.RESIDENT
    states[categories & _PAGE_IS_PFNZERO != 0] = HostState.ZERO
    return states


_SCAN_STATE = _state_by_category()


def _state_by_entry() -> npt.NDArray[np.uint8]:
    """Return the HostState for each highest byte of a pagemap entry."""
    states = np.full(256, HostState.ABSENT, dtype=np.uint8)
    entries = np.arange(256, dtype=np.uint64) << np.uint64(_TOP_BYTE)
    present = entries & np.uint64(_ENTRY_PRESENT) != 0
    states[entries & np.uint64(_ENTRY_SWAPPED) != 0] = HostState.SWAPPED
    states[present] = HostState.RESIDENT
    states[present & (entries & np.uint64(_ENTRY_EXCLUSIVE) == 0)] = HostState.ZERO
    return states


_PAGEMAP_STATE = _state_by_entry()


def scan_pages(pagemap: int, start: int, states: StateArray) -> None:
    """Fill `states` (HostState) for the pages from host virtual address `start`, by PAGEMAP_SCAN.

    `pagemap`: descriptor of /proc/PID/pagemap. Raises OSError; ENOTTY before Linux 6.7.
    """
    end = start + len(states) * PAGE_SIZE
    regions = np.empty((_REGIONS, 3), dtype=np.uint64)
    wanted = _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED
    states[:] = HostState.ABSENT
    at = start
    while at < end:
        stop = min(at + _SCANNED, end)
        vector = (regions.ctypes.data, _REGIONS)
        masks = (0, 0, wanted, wanted | _PAGE_IS_PFNZERO)
        argument = bytearray(
            _SCAN_ARGUMENT.pack(_SCAN_ARGUMENT.size, 0, at, stop, 0, *vector, 0, *masks)
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        if count == 0:
            at = stop
            continue
        # Run, gap, run, ..., run: their lengths are the differences between all edges. Go on from
        # the last edge, not from walk_end: Linux 6.18 stops short when its own buffer fills up.
        edges = regions[:count, :2].reshape(-1).astype(np.int64)
        values = np.full(2 * count - 1, HostState.ABSENT, dtype=np.uint8)
        values[::2] = _SCAN_STATE[regions[:count, 2]]
        first, at = int(edges[0]), int(edges[-1])
        states[(first - start) // PAGE_SIZE : (at - start) // PAGE_SIZE] = np.repeat(
            values, np.diff(edges) // PAGE_SIZE
        )


def copy_pagemap(pagemap: int, start: int, states: StateArray) -> None:
    """Fill `states` (HostState) for the pages from host virtual address `start`, from pagemap.

    `pagemap`: descriptor of /proc/PID/pagemap. A present page that is not mapped exactly once reads
    ZERO. Raises OSError, also if the process has ended.
    """
    buffer = np.empty(_PAGEMAP_CHUNK // 8, dtype=np.uint64)
    done = 0
    while done < len(states):
        wanted = min(len(buffer), len(states) - done)
        size = os.preadv(pagemap, [buffer.data[:wanted]], (start // PAGE_SIZE + done) * 8)
        if size < buffer.itemsize:
            raise OSError("pagemap ended early: the process has exited")
        entries = buffer[: size // 8]
        states[done : done + len(entries)] = _PAGEMAP_STATE[entries >> np.uint64(_TOP_BYTE)]
        done += len(entries)


class ScanSupport(Enum):
    """What PAGEMAP_SCAN can do on this host."""

    NONE = "none"
    ZERO_PAGE = "zero page"
    """It recognizes the zero page, but shows the huge zero page as present."""
    FULL = "zero page and huge zero page"


def scan_support() -> ScanSupport:
    """Find out by scanning a huge zero page of this process.

    Kernels 6.7 to 6.15 show the huge zero page as present (fixed by "fs/proc/task_mmu: fix
    PAGE_IS_PFNZERO detection for the huge zero folio" in 6.16 and some stable kernels). The version
    therefore does not tell; only a trial does.
    """
    huge = 2 * MIB
    with mmap.mmap(-1, 2 * huge, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # a kernel without transparent huge pages has no huge zero page
            memory.madvise(mmap.MADV_HUGEPAGE)
        anchor = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(anchor)
        del anchor
        offset = -start % huge
        memory[offset : offset + 1]  # the read fault maps the zero page
        states = np.empty(1, dtype=np.uint8)
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
                scan_pages(pagemap.fileno(), start + offset, states)
        except OSError:
            return ScanSupport.NONE
    return ScanSupport.FULL if states[0] == HostState.ZERO else ScanSupport.ZERO_PAGE
