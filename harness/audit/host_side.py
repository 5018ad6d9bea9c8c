# SPDX-License-Identifier: Apache-2.0
"""The host's side of an audit: what the host holds for a VM, page by page and as a whole."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.audit.own_memory import OwnMemory, own_memory
from harness.audit.qemu_facts import QemuFacts
from harness.errors import ObserveError
from harness.kernel.pages import HostState, StateArray
from harness.kernel.zones import HUGE_PAGE
from harness.machine.cgroup import memory_file
from harness.observe.guest_vmas import backing_files, process_gone
from harness.observe.mapping import guest_ranges, parse_smaps
from harness.observe.residency import HostResidency
from harness.units import KIB, PAGE_SIZE

_COUNTED_PAGES = 1 << 18
"""Page frames that are counted together, 1 GiB; a multiple of a block."""

_STATUS = re.compile(rb"^(VmRSS|VmSwap|VmPTE|VmLck):\s+(\d{1,20}) kB$", re.MULTILINE)


@dataclass(frozen=True)
class ProcessCounters:
    """The kernel's counters of the process, in bytes (/proc/PID/status)."""

    rss: int
    swap: int
    page_tables: int
    locked: int
    """Memory that mlock(2) keeps resident, whatever is discarded."""


@dataclass(frozen=True)
class RamHeld:
    """What the host holds for guest RAM, in bytes."""

    size: int
    """Guest RAM as it was given to QEMU."""
    held: int
    """Resident or swapped; for a file or memfd, what the file keeps."""
    swapped: int
    merged: int | None
    """Of the whole process, merged with other pages by KSM; None before Linux 5.19."""
    huge: int
    """In transparent huge pages of the host."""
    lazily_free: int
    """Freed by MADV_FREE, and not yet taken by the host."""
    backed_by_file: bool


@dataclass(frozen=True)
class BlockCounts:
    """Blocks of 2 MiB of guest RAM, by how much of each is resident or swapped."""

    full: int
    partly: int
    partly_bytes: int
    """Held in the blocks that are partly resident."""
    empty: int


@dataclass(frozen=True)
class HostSide:
    """One look at the host's side."""

    seconds: float
    """That the look took."""
    total: int
    """What the VM costs the host: RSS, swap, page tables, and what files of guest RAM keep beyond
    what is mapped."""
    counters: ProcessCounters
    ram: RamHeld
    own: OwnMemory
    blocks: BlockCounts
    charged_to_group: int | None
    """The charge of the process's memory cgroup, which may hold page cache and other processes."""

    @property
    def parts(self) -> int:
        return self.ram.held + self.own.total + self.counters.page_tables

    @property
    def unexplained(self) -> int:
        """What the kernel counts beyond the parts; negative if it counts less."""
        return self.total - self.parts


class HostReader:
    """Reads the host's side of one QEMU, of process `pid`."""

    def __init__(self, pid: int, facts: QemuFacts) -> None:
        """Raises `ObserveError` if the process has ended or may not be read."""
        self._pid = pid
        self._ranges = guest_ranges(facts.layout)
        self._devices = tuple((b.hva, b.hva + b.size) for b in facts.devices)
        self._size = sum(block.size for block in facts.layout.blocks)
        self._files = tuple({file.path: None for file in backing_files(pid, facts.layout)})
        self.residency = HostResidency(pid, facts.layout)

    def read(self, states: StateArray) -> HostSide:
        """Read the process's mappings and counters.

        `states`: the HostState of every page, read just before. Raises `ObserveError`.
        """
        start = time.monotonic()
        try:
            smaps = Path(f"/proc/{self._pid}/smaps").read_bytes()
            if not smaps:
                raise process_gone(self._pid)
            counters = parse_counters(Path(f"/proc/{self._pid}/status").read_bytes())
            files = sum(path.stat().st_blocks * 512 for path in self._files)
        except OSError as error:
            raise process_gone(self._pid, error) from error
        sums = parse_smaps(smaps, self._ranges)
        mapped = sums["Rss"] + sums.get("Swap", 0)
        held = files + sums["Anonymous"] + sums.get("Swap", 0) if self._files else mapped
        charge = memory_file(self._pid)
        return HostSide(
            seconds=time.monotonic() - start,
            total=counters.rss + counters.swap + counters.page_tables + held - mapped,
            counters=counters,
            ram=RamHeld(
                size=self._size,
                held=held,
                swapped=sums.get("Swap", 0),
                merged=_merged(self._pid),
                huge=sums.get("AnonHugePages", 0) + sums.get("ShmemPmdMapped", 0),
                lazily_free=sums.get("LazyFree", 0),
                backed_by_file=bool(self._files),
            ),
            own=own_memory(smaps, self._ranges, self._devices),
            blocks=count_blocks(states),
            charged_to_group=int(charge.read_text()) if charge is not None else None,
        )


def parse_counters(status: bytes) -> ProcessCounters:
    """Parse /proc/PID/status. Raises `ObserveError` for a process without memory."""
    found = {name: int(size) * KIB for name, size in _STATUS.findall(status)}
    if b"VmRSS" not in found:
        raise ObserveError("the process has ended", hint="check whether the VM still runs")
    return ProcessCounters(
        rss=found[b"VmRSS"],
        swap=found.get(b"VmSwap", 0),
        page_tables=found.get(b"VmPTE", 0),
        locked=found.get(b"VmLck", 0),
    )


def count_blocks(states: StateArray) -> BlockCounts:
    """Count the aligned blocks of 2 MiB that QEMU backs. `states`: HostState by PFN."""
    pages = HUGE_PAGE // PAGE_SIZE
    full = partly = partly_pages = empty = 0
    for start in range(0, len(states), _COUNTED_PAGES):
        part = states[start : start + _COUNTED_PAGES]
        whole = np.pad(part, (0, -len(part) % pages), constant_values=HostState.UNKNOWN)
        blocks = whole.reshape(-1, pages)
        backed = np.count_nonzero(blocks != HostState.UNKNOWN, axis=1)
        there = backed > 0
        held = np.count_nonzero(
            (blocks == HostState.RESIDENT) | (blocks == HostState.SWAPPED), axis=1
        )
        between = (held > 0) & (held < backed)
        full += int(np.count_nonzero(there & (held == backed)))
        partly += int(np.count_nonzero(between))
        partly_pages += int(held[between].sum())
        empty += int(np.count_nonzero(there & (held == 0)))
    return BlockCounts(full=full, partly=partly, partly_bytes=partly_pages * PAGE_SIZE, empty=empty)


def _merged(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/ksm_merging_pages").read_text()) * PAGE_SIZE
    except (OSError, ValueError):
        return None
