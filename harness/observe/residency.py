# SPDX-License-Identifier: Apache-2.0
"""What the host holds of every guest page."""

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import HostState, StateArray
from harness.observe.guest_vmas import BackingFile, backing_files, process_gone
from harness.observe.page_walk import ScanSupport, copy_pagemap, scan_pages, scan_support
from harness.observe.ram_layout import RamBlock, RamLayout
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


class HostResidency:
    """Per-page residency of the guest RAM of QEMU process `pid`.

    Anonymous memory is read from QEMU's page tables. For fd-backed memory a page is resident
    if QEMU has it mapped or the file holds data there (SEEK_DATA): a file keeps pages that nobody
    maps. Huge-page files (hugetlbfs) know no holes, so for these only the page tables speak.
    Shared anonymous memory without a descriptor is judged by QEMU's page tables alone.
    """

    def __init__(self, pid: int, layout: RamLayout) -> None:
        self.pid = pid
        self.layout = layout
        support = scan_support()
        self._fill = copy_pagemap if support is ScanSupport.NONE else scan_pages
        self.zero_page_blind = support is not ScanSupport.FULL
        """The host cannot tell every shared zero page from a held page: compare `excess`."""

    def read(self) -> StateArray:
        """HostState of every page, index = PFN, length `layout.pfn_end`; not atomic.

        Raises ObserveError when the process is gone or belongs to somebody else.
        """
        states = np.full(self.layout.pfn_end, HostState.UNKNOWN, dtype=np.uint8)
        files = {file.block: file for file in backing_files(self.pid, self.layout)}
        try:
            with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pagemap:
                for piece in self.layout.pieces:
                    pages = states[piece.pfn_start : piece.pfn_end]
                    self._fill(pagemap.fileno(), piece.hva, pages)
            for block in self.layout.blocks:
                file = files.get(block.name)
                if file is not None and block.page_size == PAGE_SIZE:
                    self._add_file_pages(states, block, file_pages(file, block.size))
        except OSError as error:
            raise process_gone(self.pid, error) from error
        return states

    def _add_file_pages(
        self, states: StateArray, block: RamBlock, held: npt.NDArray[np.bool_]
    ) -> None:
        for piece in self.layout.pieces:
            if piece.block == block.name:
                first = piece.block_offset // PAGE_SIZE
                pages = states[piece.pfn_start : piece.pfn_end]
                pages[held[first : first + len(pages)]] = HostState.RESIDENT

    @staticmethod
    def excess(states: StateArray, rss: int) -> int:
        """Bytes counted resident beyond the mappings' Rss, for guest RAM that is anonymous.

        About what the shared zero pages add where `zero_page_blind`; else near 0. Pages of guest
        RAM outside every piece (under the VGA window) and movement between the two readings
        make it differ by a little, also below 0.
        """
        return int(np.count_nonzero(states == HostState.RESIDENT)) * PAGE_SIZE - rss
