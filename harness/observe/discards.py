# SPDX-License-Identifier: Apache-2.0
"""What QEMU discarded: its trace of discards, read as it grows."""

import bisect
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import ObserveError
from harness.growing_file import GrowingFile
from harness.observe.ram_layout import RamLayout
from harness.record.address_map import AddressMap
from harness.record.discard_lines import parse_discards, parse_failures
from harness.record.facts import DiscardTotals


class NoDiscards:
    """In place of a log, for a QEMU that traces none: to not know is not to have seen nothing."""

    def __init__(self, path: Path, untraced: str) -> None:
        self.path = path
        self.untraced = untraced

    def read(self) -> None:
        """Nothing is known."""

    def mark(self) -> int:
        """No moment can be told from another."""
        return 0

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Raises ObserveError."""
        raise self._error()

    def covered_since(self, _mark: int) -> npt.NDArray[np.bool_]:
        """Raises ObserveError."""
        raise self._error()

    def follow(self) -> None:
        """Raises ObserveError."""
        raise self._error()

    def followed(self) -> list[tuple[float, int, int]]:
        """Raises ObserveError."""
        raise self._error()

    def unfollow(self) -> None:
        """Nothing was followed."""

    def _error(self) -> ObserveError:
        return ObserveError(
            f"nothing tells what this QEMU discards: {self.untraced}",
            hint="take another with --qemu; `fpr-harness qemu list` has builds that trace discards",
        )


class _Lines:
    """Whole lines of a log, each once."""

    def __init__(self, path: Path, what: str) -> None:
        self._file = GrowingFile(path, what)
        self._path = path
        self._partial = b""

    def read(self) -> bytes:
        """Those written since the last call. Raises `ObserveError`, also if there is no file."""
        parts = [self._partial]
        while data := self._file.read():
            parts.append(data)
        if not self._file.position and not self._path.exists():
            raise ObserveError(
                f"{self._path} is not there: what QEMU discards is not known",
                hint="let nothing else touch the run's directory",
                evidence=(self._path,),
            )
        whole, _, self._partial = b"".join(parts).rpartition(b"\n")
        return whole


class DiscardLog:
    """Every discard of guest RAM since QEMU's start; callable from any thread.

    `path` is QEMU's trace; `errors`, where given, what it writes to standard error.

    A discard belongs to guest RAM by its host address: block names are not unique (a hot-plugged
    block has none when first discarded), and other blocks' discards are passed over.
    """

    untraced = ""

    def __init__(self, path: Path, layout: RamLayout, errors: Path | None = None) -> None:
        self.path = path
        self._trace = _Lines(path, "QEMU's trace of discards")
        self._errors = _Lines(errors, "QEMU's log") if errors is not None else None
        self._lock = threading.Lock()
        self._totals = DiscardTotals(calls=0, bytes=0, failed_calls=0, failed_bytes=0)
        self._last_at: float | None = None
        self._marks = 1
        # Per PFN: the mark in force when it was last discarded, 0 for never.
        self._discarded_at_mark = np.zeros(layout.pfn_end, dtype=np.uint16)
        self._followed: list[tuple[float, int, int]] | None = None
        self._map = AddressMap(layout.pieces)
        self._blocks = sorted((block.hva, block.hva + block.size) for block in layout.blocks)
        self._block_starts = [start for start, _ in self._blocks]

    def read(self) -> DiscardTotals:
        """Take in what was written since the last call; the sums since QEMU's start.

        Raises ObserveError when a log cannot be read, or is no longer the one that was read before
        (deleted, cut, replaced): no trace is not the same as no discard.
        """
        with self._lock:
            self._take(self._trace.read())
            if self._errors is not None:
                self._take_failures(self._errors.read())
            return self._totals

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Per PFN: was it ever discarded with success, as of the last `read` (a copy)."""
        return self.covered_since(0)

    def mark(self) -> int:
        """Read up to now, and name this moment for `covered_since`. Raises ObserveError."""
        self.read()
        with self._lock:
            self._marks += 1
            return self._marks

    def covered_since(self, mark: int) -> npt.NDArray[np.bool_]:
        """Per PFN: was it discarded with success after `mark`, as of the last `read`."""
        with self._lock:
            return np.greater_equal(self._discarded_at_mark, max(mark, 1))

    def follow(self) -> None:
        """Keep each discard from the next `read` on, for `followed`."""
        with self._lock:
            self._followed = []

    def followed(self) -> list[tuple[float, int, int]]:
        """(when, first PFN, one past the last PFN) of the discards since the last call."""
        with self._lock:
            taken, self._followed = self._followed or [], []
            return taken

    def unfollow(self) -> None:
        """Keep them no longer."""
        with self._lock:
            self._followed = None

    @property
    def last_at(self) -> float | None:
        """When memory last moved (a discard with success), host monotonic; None: never so far.

        By the trace's wall-clock stamps; by the moment of reading where it has none.
        """
        with self._lock:
            return self._last_at

    def _take(self, text: bytes) -> None:
        now = time.monotonic()
        wall_offset = now - time.time()
        # The same blocks are discarded again and again: work once for each, at its last time.
        times: Counter[tuple[int, int, bool]] = Counter()
        stamps: dict[tuple[int, int, bool], float | None] = {}
        for discard in parse_discards(text):
            key = (discard.address, discard.length, discard.ok)
            times[key] += 1
            stamps[key] = discard.at
        calls = size = failed_calls = failed_size = 0
        for (start, length, ok), count in times.items():
            if not self._is_guest(start):
                continue
            if not ok:
                failed_calls += count
                failed_size += count * length
                continue
            calls += count
            size += count * length
            stamp = stamps[start, length, ok]
            at = now if stamp is None else stamp + wall_offset
            self._cover(start, start + length, at)
            self._last_at = at if self._last_at is None else max(self._last_at, at)
        self._totals = DiscardTotals(
            calls=self._totals.calls + calls,
            bytes=self._totals.bytes + size,
            failed_calls=self._totals.failed_calls + failed_calls,
            failed_bytes=self._totals.failed_bytes + failed_size,
        )

    def _take_failures(self, text: bytes) -> None:
        lengths = [failure.length for failure in parse_failures(text)]
        self._totals = replace(
            self._totals,
            failed_calls=self._totals.failed_calls + len(lengths),
            failed_bytes=self._totals.failed_bytes + sum(lengths),
        )

    def _is_guest(self, address: int) -> bool:
        index = bisect.bisect_right(self._block_starts, address) - 1
        return index >= 0 and address < self._blocks[index][1]

    def _cover(self, start: int, end: int, at: float) -> None:
        """Mark the pages wholly inside the host addresses."""
        for first, last in self._map.pages_within(start, end - start):
            self._discarded_at_mark[first:last] = self._marks
            if self._followed is not None:
                self._followed.append((at, first, last))
