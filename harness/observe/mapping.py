# SPDX-License-Identifier: Apache-2.0
"""What the host holds for guest RAM: the guest-RAM mappings only, never the whole process.

Under software emulation QEMU's translation buffers are in its RSS too, and shared memory can leave
a mapping while its file keeps it; hence smaps of these mappings, and the file's blocks.
"""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from harness.errors import ObserveError
from harness.machine.cgroup import memory_file
from harness.observe.guest_vmas import MAPPING_HEADER, backing_files, process_gone
from harness.observe.ram_layout import RamLayout
from harness.record.facts import HostMapping
from harness.units import KIB, MIB, PAGE_SIZE

_SMAPS_FIELD = re.compile(rb"^(\w+): +(\d{1,20}) kB$", re.MULTILINE)
_STATUS_FIELD = re.compile(rb"^(VmRSS|VmSwap):\s+(\d{1,20}) kB$", re.MULTILINE)
_TRANSLATED = re.compile(rb"\S+ rwxp 0+ 0+:0+ 0\b")
_QUIET = MIB
"""Bytes a process's RSS may move during a reading for the reading to calibrate the counters."""
_Range = tuple[int, int]


def parse_smaps(text: bytes, ranges: tuple[_Range, ...]) -> dict[str, int]:
    """Sum the fields (bytes) of every mapping inside the `ranges` of host virtual addresses.

    Documentation/filesystems/proc.rst, /proc/PID/smaps. `Shmem` is made here: what is resident
    and not anonymous. Raises ObserveError when no mapping lies inside, or one only in part.
    """
    sums: dict[str, int] = {}
    for header, fields in _sections(text):
        start, end = int(header[1], 16), int(header[2], 16)
        if not any(start < high and end > low for low, high in ranges):
            continue
        if not any(low <= start and end <= high for low, high in ranges):
            raise ObserveError(
                f"the mapping {start:#x}-{end:#x} holds guest RAM and something else; "
                f"guest RAM: {', '.join(f'{low:#x}-{high:#x}' for low, high in ranges)}"
            )
        for name, size in fields.items():
            sums[name] = sums.get(name, 0) + size
    if "Rss" not in sums or "Anonymous" not in sums:
        raise ObserveError(
            "smaps shows none of the guest RAM mappings",
            hint="read the RAM layout again: guest memory may have been plugged or unplugged",
        )
    return sums


def outside_of(text: bytes, ranges: tuple[_Range, ...]) -> int:
    """Bytes (Rss and Swap) that a process holds outside `ranges`, less its translation buffers.

    TCG's buffer of translated code is the one anonymous mapping that is writable and executable
    (tcg/region.c, alloc_code_gen_buffer()); it grows as the guest runs and tells nothing.
    """
    size = 0
    for header, fields in _sections(text):
        start, end = int(header[1], 16), int(header[2], 16)
        inside = any(low <= start and end <= high for low, high in ranges)
        if not inside and not _TRANSLATED.match(header[0]):
            size += fields.get("Rss", 0) + fields.get("Swap", 0)
    return size


def _sections(text: bytes) -> Iterator[tuple[re.Match[bytes], dict[str, int]]]:
    """The header of every mapping in smaps, and its fields in bytes."""
    headers = list(MAPPING_HEADER.finditer(text))
    for header, following in zip_longest(headers, headers[1:]):
        end = following.start() if following else len(text)
        found = _SMAPS_FIELD.findall(text, header.end(), end)
        yield header, {name.decode(): int(value) * KIB for name, value in found}


@dataclass(frozen=True)
class QuickMapping:
    """What `HostMappingReader.read_quick` gives; bytes, guest RAM only."""

    at: float
    rss: int
    held: int


class HostMappingReader:
    """Reads what the host holds for the guest RAM of QEMU process `pid`; for any thread."""

    def __init__(self, pid: int, layout: RamLayout) -> None:
        """Raises ObserveError when the process is gone or belongs to somebody else."""
        self.pid = pid
        self._ranges = guest_ranges(layout)
        self._files = tuple({file.path: None for file in backing_files(pid, layout)})
        self._cgroup = memory_file(pid)
        self._lock = threading.Lock()
        self._last: HostMapping | None = None
        self._other_rss = 0
        self._other_swap = 0

    def read(self) -> HostMapping:
        """The exact reading, from smaps. It walks page tables: about 15 ms a GiB of 4 KiB pages.

        Raises ObserveError when the process is gone or belongs to somebody else.
        """
        with self._lock:
            try:
                return self._read()
            except OSError as error:
                raise process_gone(self.pid, error) from error

    def read_quick(self) -> QuickMapping:
        """The reading for a fast sampler: well below 0.1 ms, whatever the guest's size.

        The process's own counters (VmRSS, VmSwap) less what the last exact reading left over for
        all other mappings. It is off by what those have grown since, and by the counters' own
        error (up to 64 pages a thread before Linux 6.2, 32 pages a CPU or so after). A file's
        blocks are exact. Raises ObserveError like `read`.
        """
        with self._lock:
            try:
                last = self._last or self._read()
                at = time.monotonic()
                process_rss, process_swap = self._counters()
                rss = max(0, process_rss - self._other_rss)
                swap = max(0, process_swap - self._other_swap)
                blocks = self._file_blocks()
            except OSError as error:
                raise process_gone(self.pid, error) from error
        held = rss + swap if blocks is None else blocks + last.anonymous + swap
        return QuickMapping(at=at, rss=rss, held=held)

    def _read(self) -> HostMapping:
        before, swap_before = self._counters()
        at = time.monotonic()
        text = self._smaps()
        sums = parse_smaps(text, self._ranges)
        reading = HostMapping(
            at=at,
            rss=sums["Rss"],
            anonymous=sums["Anonymous"],
            shmem=sums["Rss"] - sums["Anonymous"],
            lazyfree=sums.get("LazyFree", 0),
            anon_huge=sums.get("AnonHugePages", 0),
            swap=sums.get("Swap", 0),
            file_blocks=self._file_blocks(),
            cgroup_current=int(self._cgroup.read_text()) if self._cgroup else None,
            merged=self._merged(),
            outside=outside_of(text, self._ranges),
        )
        after, _ = self._counters()
        if self._last is None or abs(after - before) < _QUIET:
            self._other_rss = after - reading.rss
            self._other_swap = swap_before - reading.swap
        self._last = reading
        return reading

    def _smaps(self) -> bytes:
        text = Path(f"/proc/{self.pid}/smaps").read_bytes()
        if not text:
            raise process_gone(self.pid)
        return text

    def _counters(self) -> tuple[int, int]:
        """The process's RSS and swap in bytes, by its own counters."""
        text = Path(f"/proc/{self.pid}/status").read_bytes()
        fields = {name: int(value) * KIB for name, value in _STATUS_FIELD.findall(text)}
        if b"VmRSS" not in fields:
            raise process_gone(self.pid)
        return fields[b"VmRSS"], fields.get(b"VmSwap", 0)

    def _merged(self) -> int | None:
        """/proc/PID/ksm_merging_pages (Documentation/admin-guide/mm/ksm.rst, Linux 5.19)."""
        try:
            return int(Path(f"/proc/{self.pid}/ksm_merging_pages").read_text()) * PAGE_SIZE
        except FileNotFoundError:
            return None

    def _file_blocks(self) -> int | None:
        """Bytes allocated to the files behind guest RAM; st_blocks counts 512 bytes (stat(2))."""
        if not self._files:
            return None
        return sum(path.stat().st_blocks * 512 for path in self._files)


def guest_ranges(layout: RamLayout) -> tuple[_Range, ...]:
    """Host virtual bytes [low, high) of guest RAM; those that touch are one: Linux may have joined
    the mappings."""
    merged: list[_Range] = []
    for low, high in sorted((block.hva, block.hva + block.size) for block in layout.blocks):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)
