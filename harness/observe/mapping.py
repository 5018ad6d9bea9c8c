# SPDX-License-Identifier: Apache-2.0
"""What the host holds for guest RAM, from the guest-RAM mappings only.

The RSS of the whole process misleads: under TCG it includes QEMU's translation buffers, and shared
memory can be unmapped while its file keeps it. This module therefore reads smaps of the guest-RAM
mappings, and the blocks of their files.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
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
TRANSLATED = re.compile(rb"\S+ rwxp 0+ 0+:0+ 0\b")
_IN_MEMORY = ("/memfd:", "/dev/shm/")
"""How the paths of files begin that lie in memory: memfd_create(2), shm_open(3)."""
_QUIET = MIB
"""A reading calibrates the counters only if the process's RSS moves by less than this, in bytes."""
_Range = tuple[int, int]


def parse_smaps(text: bytes, ranges: tuple[_Range, ...]) -> dict[str, int]:
    """Sum each field (bytes) over all mappings inside the `ranges` of host virtual addresses.

    Format: Documentation/filesystems/proc.rst, /proc/PID/smaps. Raises ObserveError if no mapping
    lies inside, or if one lies partly outside.
    """
    sums: dict[str, int] = {}
    for header, fields in smaps_sections(text):
        start, end = int(header[1], 16), int(header[2], 16)
        if not any(start < high and end > low for low, high in ranges):
            continue
        if not any(low <= start and end <= high for low, high in ranges):
            raise ObserveError(
                f"the mapping {start:#x}-{end:#x} holds other memory besides guest RAM; "
                f"guest RAM: {', '.join(f'{low:#x}-{high:#x}' for low, high in ranges)}"
            )
        for name, size in fields.items():
            sums[name] = sums.get(name, 0) + size
    if "Rss" not in sums or "Anonymous" not in sums:
        raise ObserveError(
            "smaps shows none of the guest-RAM mappings",
            hint="read the RAM layout again: memory hotplug may have changed it",
        )
    return sums


def translation_buffers(text: bytes) -> tuple[_Range, ...]:
    """Find TCG's buffers of translated code, as host virtual bytes [low, high).

    They are the only anonymous mappings that are writable and executable (tcg/region.c,
    alloc_code_gen_buffer()), and QEMU reserves all of them when it starts.
    """
    return tuple(
        (int(header[1], 16), int(header[2], 16))
        for header, _ in smaps_sections(text)
        if TRANSLATED.match(header[0])
    )


def outside_of(text: bytes, ranges: tuple[_Range, ...]) -> int:
    """Sum Rss and Swap (bytes) of all mappings of a process outside `ranges`."""
    return sum(
        fields.get("Rss", 0) + fields.get("Swap", 0)
        for header, fields in smaps_sections(text)
        if not _lies_in(header, ranges)
    )


def unmapped_of(text: bytes, files: dict[tuple[int, int], int]) -> int:
    """Sum what files in memory hold (bytes by device and inode) and no mapping shows as resident.

    A descriptor alone keeps the memory of such a file, which counts in no mapping.
    """
    mapped: dict[tuple[int, int], int] = {}
    for header, fields in smaps_sections(text):
        key = os.makedev(int(header[5], 16), int(header[6], 16)), int(header[7])
        mapped[key] = mapped.get(key, 0) + fields.get("Rss", 0) - fields.get("Anonymous", 0)
    return sum(max(0, size - mapped.get(key, 0)) for key, size in files.items())


def _lies_in(header: re.Match[bytes], ranges: tuple[_Range, ...]) -> bool:
    start, end = int(header[1], 16), int(header[2], 16)
    return any(low <= start and end <= high for low, high in ranges)


def smaps_sections(text: bytes) -> Iterator[tuple[re.Match[bytes], dict[str, int]]]:
    """Yield the header of each mapping in smaps (`MAPPING_HEADER`) with its fields in bytes."""
    headers = list(MAPPING_HEADER.finditer(text))
    for header, following in zip_longest(headers, headers[1:]):
        end = following.start() if following else len(text)
        found = _SMAPS_FIELD.findall(text, header.end(), end)
        yield header, {name.decode(): int(value) * KIB for name, value in found}


@dataclass(frozen=True)
class QuickMapping:
    """What `HostMappingReader.read_quick` returns; bytes, guest RAM only."""

    at: float
    rss: int
    held: int


class HostMappingReader:
    """Reads what the host holds for the guest RAM of QEMU process `pid`. Thread-safe."""

    def __init__(self, pid: int, layout: RamLayout) -> None:
        """Raises ObserveError if the process has ended or belongs to another user."""
        self.pid = pid
        self._ranges = guest_ranges(layout)
        self._files = tuple({file.path: None for file in backing_files(pid, layout)})
        self._buffers: tuple[_Range, ...] | None = None
        self._cgroup = memory_file(pid)
        self._lock = threading.Lock()
        self._last: HostMapping | None = None
        self._other_rss = 0
        self._other_swap = 0

    def read(self) -> HostMapping:
        """Read exactly, from smaps. Walks page tables: about 15 ms per GiB of 4 KiB pages.

        Raises ObserveError if the process has ended or belongs to another user.
        """
        with self._lock:
            try:
                return self._read()
            except OSError as error:
                raise process_gone(self.pid, error) from error

    def read_quick(self) -> QuickMapping:
        """Read approximately, for a fast sampler: well below 0.1 ms for any guest size.

        Takes the process's counters (VmRSS, VmSwap) less the share of all other mappings at the
        last exact reading. The error is the growth of those mappings since, plus that of the
        counters (up to 64 pages per thread before Linux 6.2, about 32 pages per CPU from then on).
        The blocks of a file are exact. Raises ObserveError like `read`.
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
        held = rss + swap
        if blocks is not None:
            held = max(blocks, min(rss, last.anonymous) + swap)
        return QuickMapping(at=at, rss=rss, held=held)

    def _read(self) -> HostMapping:
        before, swap_before = self._counters()
        at = time.monotonic()
        text = self._smaps()
        sums = parse_smaps(text, self._ranges)
        if self._buffers is None:
            # What becomes writable and executable later is no buffer of translated code.
            self._buffers = translation_buffers(text)
        outside = outside_of(text, (*self._ranges, *self._buffers))
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
            outside=outside + unmapped_of(text, self._other_files()),
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
        """Read the process's RSS and swap, in bytes, from /proc/PID/status."""
        text = Path(f"/proc/{self.pid}/status").read_bytes()
        fields = {name: int(value) * KIB for name, value in _STATUS_FIELD.findall(text)}
        if b"VmRSS" not in fields:
            raise process_gone(self.pid)
        return fields[b"VmRSS"], fields.get(b"VmSwap", 0)

    def _merged(self) -> int | None:
        """Read the bytes merged by KSM; None before Linux 5.19.

        /proc/PID/ksm_merging_pages, Documentation/admin-guide/mm/ksm.rst.
        """
        try:
            text = Path(f"/proc/{self.pid}/ksm_merging_pages").read_text()
        except FileNotFoundError:
            return None
        if not text:  # it is ending, and has no memory any more
            raise process_gone(self.pid)
        return int(text) * PAGE_SIZE

    def _file_blocks(self) -> int | None:
        """Sum the bytes allocated to the files backing guest RAM; None without files.

        st_blocks counts units of 512 bytes (stat(2)).
        """
        if not self._files:
            return None
        return sum(path.stat().st_blocks * 512 for path in self._files)

    def _other_files(self) -> dict[tuple[int, int], int]:
        """Read the bytes of open files in memory other than guest RAM, by device and inode."""
        own = {(status.st_dev, status.st_ino) for status in (path.stat() for path in self._files)}
        found: dict[tuple[int, int], int] = {}
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in the meantime
                if str(descriptor.readlink()).startswith(_IN_MEMORY):
                    status = descriptor.stat()
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
        return {key: size for key, size in found.items() if key not in own}


def guest_ranges(layout: RamLayout) -> tuple[_Range, ...]:
    """Return the ranges of guest RAM, as host virtual bytes [low, high).

    Joins ranges that touch: Linux may have merged their mappings.
    """
    merged: list[_Range] = []
    for low, high in sorted((block.hva, block.hva + block.size) for block in layout.blocks):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)
