# SPDX-License-Identifier: Apache-2.0
"""Where each page of the guest lies in QEMU's memory."""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.units import PAGE_SIZE


@dataclass(frozen=True)
class RamPiece:
    """Guest page frames [pfn_start, pfn_end), at host virtual address `hva` on."""

    pfn_start: int
    pfn_end: int
    block: str
    """The RAM block of QEMU that backs them, `block_offset` bytes from its start."""
    block_offset: int
    hva: int

    @property
    def hva_end(self) -> int:
        return self.hva + (self.pfn_end - self.pfn_start) * PAGE_SIZE


class AddressMap:
    """The pieces of one guest's memory, in both directions."""

    def __init__(self, pieces: Iterable[RamPiece]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece.hva)
        self._starts = [piece.hva for piece in self._pieces]

    def piece_of(self, pfn: int) -> RamPiece | None:
        """The piece that a page frame lies in; None: QEMU has no RAM for it."""
        return next((p for p in self._pieces if p.pfn_start <= pfn < p.pfn_end), None)

    def host_address(self, pfn: int) -> int | None:
        """Where the page begins in QEMU's memory."""
        piece = self.piece_of(pfn)
        return None if piece is None else piece.hva + (pfn - piece.pfn_start) * PAGE_SIZE

    def page_at(self, address: int) -> int | None:
        """The page frame of a host address; None: it is no guest RAM."""
        for first, _last in self.pages_within(address - address % PAGE_SIZE, PAGE_SIZE):
            return first
        return None

    def pages_within(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """[first, last) of the page frames wholly inside `length` bytes from a host address.

        One range a piece: what is one block for QEMU can lie in several pieces of the guest.
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
