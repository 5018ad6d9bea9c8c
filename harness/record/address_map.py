# SPDX-License-Identifier: Apache-2.0
"""Maps guest pages to host addresses in QEMU's memory, and back."""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.units import PAGE_SIZE


@dataclass(frozen=True)
class RamPiece:
    """Guest page frames [pfn_start, pfn_end), which start at host virtual address `hva`."""

    pfn_start: int
    pfn_end: int
    block: str
    """The RAM block of QEMU that backs them, from byte `block_offset` on."""
    block_offset: int
    hva: int

    @property
    def hva_end(self) -> int:
        return self.hva + (self.pfn_end - self.pfn_start) * PAGE_SIZE


class AddressMap:
    """The pieces of one guest's memory, searchable by PFN and by host address."""

    def __init__(self, pieces: Iterable[RamPiece]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece.hva)
        self._starts = [piece.hva for piece in self._pieces]

    def piece_of(self, pfn: int) -> RamPiece | None:
        """Find the piece of a page frame; None if QEMU has no RAM for it."""
        return next((p for p in self._pieces if p.pfn_start <= pfn < p.pfn_end), None)

    def host_address(self, pfn: int) -> int | None:
        """Find the host virtual address of a page; None if QEMU has no RAM for it."""
        piece = self.piece_of(pfn)
        return None if piece is None else piece.hva + (pfn - piece.pfn_start) * PAGE_SIZE

    def page_at(self, address: int) -> int | None:
        """Find the page frame at a host virtual address; None if it is not guest RAM."""
        for first, _last in self.pages_within(address - address % PAGE_SIZE, PAGE_SIZE):
            return first
        return None

    def pages_within(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) of the page frames that lie entirely in a host address range.

        One range per piece: one block of QEMU's can back several pieces of guest memory.
        """
        end = address + length
        for piece in self._pieces[max(0, bisect.bisect_right(self._starts, address) - 1) :]:
            if piece.hva >= end:
                break
            pages = piece.pfn_end - piece.pfn_start
            first = max(0, -((piece.hva - address) // PAGE_SIZE))
            last = min(pages, (end - piece.hva) // PAGE_SIZE)
            if first < last:
                yield piece.pfn_start + first, piece.pfn_start + last
