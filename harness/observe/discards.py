# SPDX-License-Identifier: Apache-2.0
"""What QEMU discarded, read from its trace of discards as it grows."""

import bisect
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import ObserveError
from harness.growing_file import GrowingFile
from harness.observe.ram_layout import RamLayout
from harness.observe.stamp_clock import StampClock
from harness.record.address_map import AddressMap
from harness.record.discard_lines import parse_discards, parse_failures
from harness.record.facts import DiscardTotals
from harness.units import MIB, format_size


class NoDiscards:
    """Stands in for `DiscardLog` where QEMU traces no discards: unknown, rather than none."""

    def __init__(self, path: Path, untraced: str) -> None:
        self.path = path
        self.untraced = untraced

    def read(self) -> None:
        """Return None: the sums are unknown."""

    def mark(self) -> int:
        """Return 0: without a trace, moments cannot be told apart."""
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
        """Do nothing: nothing was followed."""

    def _error(self) -> ObserveError:
        return ObserveError(
            f"cannot see what this QEMU discards: {self.untraced}",
            hint="use another QEMU (--qemu); `fpr-harness qemu list` lists builds that trace "
            "discards",
        )


TRACE_BYTES = 256 * MIB
"""Two million discards; a whole GiB given back page by page makes an eighth of that."""


class _Lines:
    """Reads the complete lines of a growing log, each once."""

    def __init__(self, path: Path, what: str) -> None:
        self._file = GrowingFile(path, what)
        self._path = path
        self._partial = b""

    def read(self) -> bytes:
        """Return the lines written since the last call.

        Raises `ObserveError` if the file is missing or cannot be read.
        """
        parts = [self._partial]
        while data := self._file.read():
            parts.append(data)
        if not self._file.position and not self._path.exists():
            raise ObserveError(
                f"cannot see what QEMU discards: {self._path} does not exist",
                hint="keep other programs out of the run's directory",
                evidence=(self._path,),
            )
        whole, _, self._partial = b"".join(parts).rpartition(b"\n")
        return whole

    @property
    def bytes_read(self) -> int:
        return self._file.position


class DiscardLog:
    """Every discard of guest RAM since QEMU's start. Thread-safe.

    `path`: QEMU's trace; `errors`: the file of its standard error, which tells of failed discards.

    The host address of a discard decides whether it concerns guest RAM: block names are not unique
    (a hot-plugged block has none when first discarded). Discards of other blocks are ignored.
    """

    untraced = ""

    def __init__(
        self,
        path: Path,
        layout: RamLayout,
        errors: Path | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`stop` has QEMU trace no more, once the trace has `TRACE_BYTES`."""
        self.path = path
        self._stop = stop
        self._full = False
        self._trace = _Lines(path, "QEMU's trace of discards")
        self._errors = _Lines(errors, "QEMU's log") if errors is not None else None
        self._lock = threading.Lock()
        self._totals = DiscardTotals(calls=0, bytes=0, failed_calls=0, failed_bytes=0)
        self._clock = StampClock()
        self._last_at: float | None = None
        self._marks = 1
        # By PFN: the mark at its latest discard; 0: never discarded.
        self._discarded_at_mark = np.zeros(layout.pfn_end, dtype=np.uint16)
        self._followed: list[tuple[float, int, int]] | None = None
        self._map = AddressMap(layout.pieces)
        self._blocks = sorted((block.hva, block.hva + block.size) for block in layout.blocks)
        self._block_starts = [start for start, _ in self._blocks]

    def read(self) -> DiscardTotals:
        """Take in what was written since the last call; return the sums since QEMU's start.

        Raises ObserveError if a log cannot be read, was deleted, truncated or replaced, or has
        reached its limit: a lost trace must not read as no discards.
        """
        with self._lock:
            if not self._full:
                self._take(self._trace.read())
            if self._full or self._trace.bytes_read > TRACE_BYTES:
                self._end_trace()
            if self._errors is not None:
                self._take_failures(self._errors.read())
            return self._totals

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """By PFN: whether it was ever discarded successfully, as of the last `read` (a copy)."""
        return self.covered_since(0)

    def mark(self) -> int:
        """Read up to now and return a mark of this moment for `covered_since`.

        Raises ObserveError.
        """
        self.read()
        with self._lock:
            self._marks += 1
            return self._marks

    def covered_since(self, mark: int) -> npt.NDArray[np.bool_]:
        """By PFN: whether it was discarded successfully after `mark`, as of the last `read`."""
        with self._lock:
            return np.greater_equal(self._discarded_at_mark, max(mark, 1))

    def follow(self) -> None:
        """Record each discard for `followed`, from the next `read` on."""
        with self._lock:
            self._followed = []

    def followed(self) -> list[tuple[float, int, int]]:
        """Return the discards recorded since the last call.

        Each as (monotonic seconds, first PFN, one past the last PFN).
        """
        with self._lock:
            taken, self._followed = self._followed or [], []
            return taken

    def unfollow(self) -> None:
        """Stop recording discards."""
        with self._lock:
            self._followed = None

    @property
    def last_at(self) -> float | None:
        """When the last successful discard happened, host monotonic seconds; None before the first.

        Taken from the trace's wall-clock stamps; where it has none, the time of reading.
        """
        with self._lock:
            return self._last_at

    def _end_trace(self) -> None:
        """Raises ObserveError; QEMU is told once."""
        if not self._full:
            self._full = True
            self._stop()
        raise ObserveError(
            f"the limit of QEMU's trace of discards, {format_size(TRACE_BYTES)}, was reached: what "
            "it has discarded since is not known",
            hint="a shorter scenario, or a larger page_reporting_order, discards less often",
            evidence=(self.path,),
        )

    def _take(self, text: bytes) -> None:
        self._clock.look()
        # The same blocks are discarded again and again: handle each once, at its latest time.
        times: Counter[tuple[int, int, int]] = Counter()
        stamps: dict[tuple[int, int, int], float | None] = {}
        for discard in parse_discards(text):
            key = (discard.address, discard.length, discard.status)
            times[key] += 1
            stamps[key] = discard.at
        calls = size = failed_calls = failed_size = 0
        errno = self._totals.errno
        for (start, length, status), count in times.items():
            if not self._is_guest(start):
                continue
            if status != 0:
                failed_calls += count
                failed_size += count * length
                errno = abs(status)
                continue
            calls += count
            size += count * length
            at = self._clock.place(stamps[start, length, status])
            self._cover(start, start + length, at)
            self._last_at = at if self._last_at is None else max(self._last_at, at)
        self._totals = DiscardTotals(
            calls=self._totals.calls + calls,
            bytes=self._totals.bytes + size,
            failed_calls=self._totals.failed_calls + failed_calls,
            failed_bytes=self._totals.failed_bytes + failed_size,
            errno=errno,
        )

    def _take_failures(self, text: bytes) -> None:
        failures = list(parse_failures(text))
        if failures:
            self._totals = replace(
                self._totals,
                failed_calls=self._totals.failed_calls + len(failures),
                failed_bytes=self._totals.failed_bytes + sum(each.length for each in failures),
                errno=abs(failures[-1].status),
            )

    def _is_guest(self, address: int) -> bool:
        index = bisect.bisect_right(self._block_starts, address) - 1
        return index >= 0 and address < self._blocks[index][1]

    def _cover(self, start: int, end: int, at: float) -> None:
        """Mark the pages that lie entirely in the host range [start, end)."""
        for first, last in self._map.pages_within(start, end - start):
            self._discarded_at_mark[first:last] = self._marks
            if self._followed is not None:
                self._followed.append((at, first, last))
