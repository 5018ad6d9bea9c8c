# SPDX-License-Identifier: Apache-2.0
"""What the host holds of every guest page."""

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
    """Which of the `size` bytes from the block's start the file holds, per page. Raises OSError.

    The file is opened anew, so QEMU's file position stays alone.
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
"""At telling zero pages by Rss, which a guest at work changes meanwhile."""


class HostResidency:
    """Per-page residency of the guest RAM of QEMU process `pid`.

    Anonymous memory is read from QEMU's page tables. For fd-backed memory a page is resident
    if QEMU has it mapped or the file holds data there (SEEK_DATA): a file keeps pages that nobody
    maps. Huge-page files (hugetlbfs) know no holes, so for these only the page tables speak.
    Shared anonymous memory without a descriptor is judged by QEMU's page tables alone.

    Where the host cannot scan for zero pages, those that look like one are believed if the others
    make up the mappings' Rss, which leaves zero pages out; else all of them are UNKNOWN.
    """

    def __init__(self, pid: int, layout: RamLayout) -> None:
        self.pid = pid
        self.layout = layout
        self._scans = scan_support() is ScanSupport.FULL

    def read(self) -> StateArray:
        """HostState of every page, index = PFN, length `layout.pfn_end`; not atomic.

        Raises ObserveError when the process is gone or belongs to somebody else.
        """
        states = np.full(self.layout.pfn_end, HostState.UNKNOWN, dtype=np.uint8)
        try:
            blocks = self._page_tables() if self._scans else self._told_by_rss()
            files = {file.block: file for file in backing_files(self.pid, self.layout)}
            for block in self.layout.blocks:
                file = files.get(block.name)
                if file is not None and block.page_size == PAGE_SIZE:
                    held = file_pages(file, block.size)
                    blocks[block.name][held] = HostState.RESIDENT
        except OSError as error:
            raise process_gone(self.pid, error) from error
        for piece in self.layout.pieces:
            first = piece.block_offset // PAGE_SIZE
            pages = states[piece.pfn_start : piece.pfn_end]
            pages[:] = blocks[piece.block][first : first + len(pages)]
        return states

    def _page_tables(self) -> dict[str, StateArray]:
        """By block, the state of each of its pages, also of those that the guest does not see."""
        fill = scan_pages if self._scans else copy_pagemap
        blocks = {}
        with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pagemap:
            for block in self.layout.blocks:
                states = np.empty(block.size // PAGE_SIZE, dtype=np.uint8)
                fill(pagemap.fileno(), block.hva, states)
                if block.page_size != PAGE_SIZE:  # hugetlbfs has no zero page, nor is it in Rss
                    states[states == HostState.ZERO] = HostState.RESIDENT
                blocks[block.name] = states
        return blocks

    def _told_by_rss(self) -> dict[str, StateArray]:
        """The page tables, where what looks like a zero page is one if Rss leaves it out."""
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
