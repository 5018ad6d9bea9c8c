# SPDX-License-Identifier: Apache-2.0
"""What a QEMU process holds besides guest RAM, by kind, from the text of its smaps. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.observe.mapping import TRANSLATED, smaps_sections

Range = tuple[int, int]

_SHARED_CODE = re.compile(rb"/memfd:tcg-jit\b")
"""TCG's buffer where it is mapped twice (tcg/region.c, alloc_code_gen_buffer_splitwx_memfd())."""
_SHARED_MEMORY = re.compile(rb"/memfd:|/dev/shm/|/dev/zero\b|/SYSV|/dev/hugepages/")
_DEVICE_FILE = re.compile(rb"/dev/|anon_inode:")


@dataclass(frozen=True)
class OwnMemory:
    """Memory of the process outside guest RAM, in bytes, resident or swapped."""

    heap: int
    """Anonymous memory that is none of the others: malloc, the threads' stacks, coroutines."""
    translated: int
    """TCG's buffer of translated code."""
    devices: int
    """RAM of devices: video memory, firmware, option ROMs, and what device files map."""
    files: int
    """The program, its libraries and other files; other processes may share it."""
    shared: int
    """Shared memory: memfd, /dev/shm, System V; other processes may share it."""

    @property
    def total(self) -> int:
        return self.heap + self.translated + self.devices + self.files + self.shared


def own_memory(smaps: bytes, guest: Sequence[Range], devices: Sequence[Range]) -> OwnMemory:
    """Sum every mapping outside the ranges `guest`; `devices`: ranges of the RAM of devices.

    Ranges are host virtual bytes [start, end). Pages of hugetlbfs, which Rss leaves out, count.
    """
    sums = dict.fromkeys(OwnMemory.__dataclass_fields__, 0)
    for header, fields in smaps_sections(smaps):
        start, end = int(header[1], 16), int(header[2], 16)
        if not _inside(start, end, guest):
            kind = "devices" if _inside(start, end, devices) else _kind(header)
            sums[kind] += charged(fields)
    return OwnMemory(**sums)


def charged(fields: dict[str, int]) -> int:
    """Sum what a mapping's fields in smaps say that it holds, in bytes."""
    names = ("Rss", "Swap", "Private_Hugetlb", "Shared_Hugetlb")
    return sum(fields.get(name, 0) for name in names)


def _kind(header: re.Match[bytes]) -> str:
    path = header[8] or b""
    if TRANSLATED.match(header[0]) or _SHARED_CODE.match(path):
        return "translated"
    if _SHARED_MEMORY.match(path):
        return "shared"
    if _DEVICE_FILE.match(path):
        return "devices"
    return "files" if path.startswith(b"/") else "heap"


def _inside(start: int, end: int, ranges: Sequence[Range]) -> bool:
    return any(low <= start and end <= high for low, high in ranges)
