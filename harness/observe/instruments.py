# SPDX-License-Identifier: Apache-2.0
"""The read-only instruments on one QEMU, opened together: they share the layout of its RAM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from harness.kernel.pages import StateArray
from harness.machine.interfaces import Monitor
from harness.observe.discards import DiscardLog, NoDiscards
from harness.observe.mapping import HostMappingReader, QuickMapping
from harness.observe.ram_layout import RamLayout
from harness.observe.residency import HostResidency
from harness.record.facts import DiscardTotals, HostMapping


class MappingReader(Protocol):
    """Sums over the host's mapping of guest RAM."""

    def read(self) -> HostMapping:
        """Exact; walks page tables. Raises `ObserveError`."""

    def read_quick(self) -> QuickMapping:
        """From the process's counters. Raises `ObserveError`."""


class ResidencyReader(Protocol):
    """Which guest pages the host holds."""

    @property
    def layout(self) -> RamLayout:
        """Where the pages lie."""

    def read(self) -> StateArray:
        """A `HostState` for each page frame. Raises `ObserveError`."""


class DiscardReader(Protocol):
    """What QEMU has discarded so far."""

    @property
    def path(self) -> Path:
        """Its trace."""

    @property
    def untraced(self) -> str:
        """Why nothing tells of discards: then `read` gives None and what else there is raises
        `ObserveError`. Empty: all are traced."""

    def read(self) -> DiscardTotals | None:
        """Take in what was traced since the last call. Raises `ObserveError`."""

    def mark(self) -> int:
        """Read up to now, and name this moment for `covered_since`. Raises `ObserveError`."""

    def covered_since(self, mark: int) -> npt.NDArray[np.bool_]:
        """Whether each page frame was discarded after `mark`, as of the last `read`; 0: ever."""

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Whether each page frame was ever discarded."""

    def follow(self) -> None:
        """Keep each discard from now on for `followed`."""

    def followed(self) -> list[tuple[float, int, int]]:
        """Those since the last call: monotonic seconds, first frame, one past the last."""

    def unfollow(self) -> None:
        """Keep them no more."""


class Traced(Protocol):
    """A QEMU that instruments can be opened on."""

    @property
    def pid(self) -> int:
        """QEMU's process."""

    @property
    def monitor(self) -> Monitor:
        """Its QMP."""

    @property
    def discard_log(self) -> Path:
        """The file its trace of discards goes to."""

    @property
    def untraced(self) -> str:
        """Why there is no such trace; empty: there is."""

    @property
    def qemu_log(self) -> Path:
        """The file its error messages go to."""


@dataclass(frozen=True)
class Instruments:
    """Open on one QEMU, and good as long as the layout of its RAM stays as it is."""

    layout: RamLayout
    mapping: MappingReader
    residency: ResidencyReader
    discards: DiscardReader

    @classmethod
    def open(cls, vm: Traced) -> Self:
        """Raises `ObserveError`, `QmpError`."""
        layout = RamLayout.read(vm.monitor)
        return cls(
            layout=layout,
            mapping=HostMappingReader(vm.pid, layout),
            residency=HostResidency(vm.pid, layout),
            discards=NoDiscards(vm.discard_log, vm.untraced)
            if vm.untraced
            else DiscardLog(vm.discard_log, layout, errors=vm.qemu_log),
        )
