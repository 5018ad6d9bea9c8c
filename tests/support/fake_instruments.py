# SPDX-License-Identifier: Apache-2.0
"""A fake host, whose instruments return what a test sets."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import HostState, StateArray
from harness.observe.discards import NoDiscards
from harness.observe.instruments import Instruments
from harness.observe.mapping import QuickMapping
from harness.observe.ram_layout import RamBlock, RamLayout
from harness.record.address_map import RamPiece
from harness.record.facts import DiscardTotals, HostMapping
from harness.units import MIB, PAGE_SIZE


class FakeDiscards:
    """The log of what `host` has discarded; the count of marks goes on from log to log."""

    untraced = ""

    def __init__(self, host: "FakeInstruments") -> None:
        self._host = host

    @property
    def path(self) -> Path:
        return self._host.trace

    def read(self) -> DiscardTotals:
        return self._host.totals

    def mark(self) -> int:
        self._host.marks += 1
        return self._host.marks

    def covered_since(self, mark: int) -> npt.NDArray[np.bool_]:
        return np.greater_equal(self._host.discarded_at, max(mark, 1))

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        return self.covered_since(0)

    def follow(self) -> None:
        self._host.following = True

    def followed(self) -> list[tuple[float, int, int]]:
        return self._host.discarded.pop(0) if self._host.discarded else []

    def unfollow(self) -> None:
        self._host.following = False


class FakeInstruments:
    """What the host holds and discards; a test changes it, or lists the readings to return."""

    def __init__(self, pages: int) -> None:
        self.mappings: list[HostMapping] = [HostMapping(0.0, MIB, MIB, 0, 0, 0, 0)]
        """Readings to return in turn; the last one from then on."""
        self.host: StateArray = np.full(pages, HostState.RESIDENT, np.uint8)
        self.totals = DiscardTotals(calls=0, bytes=0, failed_calls=0, failed_bytes=0)
        self.discarded_at = np.zeros(pages, np.int64)
        """By PFN: the mark after which it was last discarded; 0: never, 1: before any mark."""
        self.marks = 1
        self.trace = Path("discards.log")
        self.untraced = ""
        """Why discards are not traced; empty if they are."""
        self.discarded: list[list[tuple[float, int, int]]] = []
        """What each call of `followed` returns; after that, nothing."""
        self.following = False

    def read(self) -> HostMapping:
        return self.mappings.pop(0) if len(self.mappings) > 1 else self.mappings[0]

    def read_quick(self) -> QuickMapping:
        mapping = self.mappings[0]
        return QuickMapping(mapping.at, mapping.rss, mapping.held)

    def opened(self) -> Instruments:
        pages = len(self.host)
        discards = NoDiscards(self.trace, self.untraced) if self.untraced else FakeDiscards(self)
        layout = RamLayout(
            (RamPiece(0, pages, "ram", 0, 0x10000000),),
            (RamBlock("ram", pages * PAGE_SIZE, PAGE_SIZE, 0x10000000),),
        )
        residency = SimpleNamespace(read=lambda: self.host.copy(), layout=layout)
        return Instruments(layout, self, residency, discards)
