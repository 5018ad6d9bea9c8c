# SPDX-License-Identifier: Apache-2.0
"""The read-only instruments on one QEMU, opened together because they share its RAM layout."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError
from harness.kernel.pages import StateArray
from harness.machine.interfaces import Monitor, Traced
from harness.observe.discards import DiscardLog, NoDiscards
from harness.observe.mapping import HostMappingReader, QuickMapping
from harness.observe.ram_layout import RamLayout
from harness.observe.residency import HostResidency
from harness.observe.thread_times import ThreadSeconds, ThreadTimes
from harness.record.facts import DiscardTotals, HostMapping


class MappingReader(Protocol):
    """Sums over the host's mapping of guest RAM."""

    def read(self) -> HostMapping:
        """Read exactly, by walking page tables. Raises `ObserveError`."""

    def read_quick(self) -> QuickMapping:
        """Read approximately, from the process's counters. Raises `ObserveError`."""


class ResidencyReader(Protocol):
    """Which guest pages the host holds."""

    @property
    def layout(self) -> RamLayout:
        """The layout of guest RAM."""

    def read(self) -> StateArray:
        """Read the `HostState` of every page, index = PFN. Raises `ObserveError`."""


class DiscardReader(Protocol):
    """What QEMU has discarded so far."""

    @property
    def path(self) -> Path:
        """QEMU's trace of discards."""

    @property
    def untraced(self) -> str:
        """Why discards are not traced; empty if they are. Without a trace, `read` returns None, and
        `covered`, `covered_since`, `follow` and `followed` raise `ObserveError`."""

    def read(self) -> DiscardTotals | None:
        """Take in what was traced since the last call; return the sums. Raises `ObserveError`."""

    def mark(self) -> int:
        """Read up to now; return a mark for `covered_since`. Raises `ObserveError`."""

    def covered_since(self, mark: int) -> npt.NDArray[np.bool_]:
        """By PFN: whether it was discarded after `mark`, as of the last `read`; 0: ever."""

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """By PFN: whether it was ever discarded."""

    def follow(self) -> None:
        """Record each discard from here on, for `followed`."""

    def followed(self) -> list[tuple[float, int, int]]:
        """Return those since the last call: (monotonic seconds, first PFN, one past the last)."""

    def unfollow(self) -> None:
        """Stop recording discards."""


class ThreadReader(Protocol):
    """The CPU time of QEMU's threads."""

    def read(self) -> ThreadSeconds:
        """Read all threads. Raises `ObserveError`."""


@dataclass(frozen=True)
class Instruments:
    """The instruments open on one QEMU; valid until its RAM layout changes."""

    layout: RamLayout
    mapping: MappingReader
    residency: ResidencyReader
    discards: DiscardReader
    threads: ThreadReader | None = None
    """None: nobody reads QEMU's CPU time."""

    @classmethod
    def open(cls, vm: Traced) -> Self:
        """Read the RAM layout and open every instrument. Raises `ObserveError`, `QmpError`."""
        layout = RamLayout.read(vm.monitor)
        return cls(
            layout=layout,
            mapping=HostMappingReader(vm.pid, layout),
            residency=HostResidency(vm.pid, layout),
            discards=NoDiscards(vm.discard_log, vm.untraced)
            if vm.untraced
            else DiscardLog(
                vm.discard_log, layout, errors=vm.qemu_log, stop=lambda: _stop_tracing(vm.monitor)
            ),
            threads=ThreadTimes.of(vm.pid, vm.monitor),
        )


def _stop_tracing(monitor: Monitor) -> None:
    """Of no avail where QEMU has ended."""
    with contextlib.suppress(HarnessError):
        event = {"name": "ram_block_discard*", "enable": False}
        monitor.execute("trace-event-set-state", event)
