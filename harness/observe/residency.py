# SPDX-License-Identifier: Apache-2.0
"""Which guest pages the host holds."""

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import HostState, StateArray
from harness.observe.guest_vmas import BackingFile, backing_files, process_gone
from harness.observe.mapping import guest_ranges, parse_smaps
from harness.observe.page_walk import ScanSupport, copy_pagemap, scan_pages, scan_support
from harness.observe.ram_layout import RamLayout
from harness.units import PAGE_SIZE


def file_pages(file: BackingFile, size: int) -> npt.NDArray[np.bool_]:
    """Find the pages of a block, `size` bytes long, for which its file holds data.

    Opens the file anew so as not to move QEMU's file position. Raises OSError.
    """
    held = np.zeros(size // PAGE_SIZE, dtype=np.bool_)
    end = file.offset + size
    hole = file.offset
    with file.path.open("rb", buffering=0) as opened:
        descriptor = opened.fileno()
        while hole < end:
            try:
                data = os.lseek(descriptor, hole, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data from here to the end of the file
                    break
                raise
            hole = os.lseek(descriptor, data, os.SEEK_HOLE)
            held[(data - file.offset) // PAGE_SIZE : -((file.offset - hole) // PAGE_SIZE)] = True
    return held


ATTEMPTS = 3
"""Attempts to find zero pages by Rss; a running guest changes it between the readings."""


class HostResidency:
    """Reads the residency of every page of guest RAM of QEMU process `pid`.

    For anonymous memory, QEMU's page tables tell. For shared fd-backed memory, the file alone tells
    (SEEK_DATA), as in `HostMapping.held`: it keeps pages that nobody maps, and reading a hole maps
    a page that the file does not keep. For private fd-backed memory, both count. hugetlbfs files do
    not show holes, and shared anonymous memory has no descriptor; for both, only the page tables
    count.

    Where PAGEMAP_SCAN does not recognize all zero pages, pages that look like zero pages are ZERO
    if the other pages add up to the mappings' Rss, which excludes zero pages; otherwise they are
    all UNKNOWN.
    """

    def __init__(self, pid: int, layout: RamLayout) -> None:
        self.pid = pid
        self.layout = layout
        self._scans = scan_support() is ScanSupport.FULL

    def read(self) -> StateArray:
        """Read the HostState of every page, index = PFN, length `layout.pfn_end`; not atomic.

        Raises ObserveError if the process has ended or belongs to another user.
        """
        states = np.full(self.layout.pfn_end, HostState.UNKNOWN, dtype=np.uint8)
        try:
            blocks = self._page_tables() if self._scans else self._told_by_rss()
            files = {file.block: file for file in backing_files(self.pid, self.layout)}
            for block in self.layout.blocks:
                file = files.get(block.name)
                if file is not None and block.page_size == PAGE_SIZE:
                    pages = blocks[block.name]
                    if file.shared:  # a hole that QEMU has read is mapped, and no part of the file
                        pages[pages != HostState.SWAPPED] = HostState.ABSENT
                    pages[file_pages(file, block.size)] = HostState.RESIDENT
        except OSError as error:
            raise process_gone(self.pid, error) from error
        for piece in self.layout.pieces:
            first = piece.block_offset // PAGE_SIZE
            pages = states[piece.pfn_start : piece.pfn_end]
            pages[:] = blocks[piece.block][first : first + len(pages)]
        return states

    def _page_tables(self) -> dict[str, StateArray]:
        """Read the HostState of each page, by block, including pages the guest does not see."""
        fill = scan_pages if self._scans else copy_pagemap
        blocks = {}
        with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pagemap:
            for block in self.layout.blocks:
                states = np.empty(block.size // PAGE_SIZE, dtype=np.uint8)
                fill(pagemap.fileno(), block.hva, states)
                if (
                    block.page_size != PAGE_SIZE
                ):  # hugetlbfs has no zero page and does not count in Rss
                    states[states == HostState.ZERO] = HostState.RESIDENT
                blocks[block.name] = states
        return blocks

    def _told_by_rss(self) -> dict[str, StateArray]:
        """Read the page tables; keep pages that look like zero pages only if Rss agrees."""
        before = self._rss()
        for _attempt in range(ATTEMPTS):
            blocks = self._page_tables()
            after = self._rss()
            resident = sum(
                int(np.count_nonzero(states == HostState.RESIDENT)) for states in blocks.values()
            )
            if resident * PAGE_SIZE >= min(before, after):
                return blocks
            before = after
        for states in blocks.values():
            states[states == HostState.ZERO] = HostState.UNKNOWN
        return blocks

    def _rss(self) -> int:
        text = Path(f"/proc/{self.pid}/smaps").read_bytes()
        if not text:
            raise process_gone(self.pid)
        return parse_smaps(text, guest_ranges(self.layout))["Rss"]
