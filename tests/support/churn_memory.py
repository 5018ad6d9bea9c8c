# SPDX-License-Identifier: Apache-2.0
"""A churn process on this host, whose memory tests read and damage through /proc."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from local_guest import LocalShell

from harness.deadline import Deadline, wait_for
from harness.guest.churn_client import ChurnSession, Hugepages
from harness.units import MIB, PAGE_SIZE

SIZE = 8 * MIB
PAGES = SIZE // PAGE_SIZE
SECONDS = 60.0
NOBODY = 65534
PRESENT, PFN = 1 << 63, (1 << 55) - 1
KPF_BUDDY, KPF_NOPAGE, KPF_THP = 1 << 10, 1 << 20, 1 << 22
U64 = (1 << 64) - 1


def _can_read_page_flags() -> bool:
    """Opening may be refused, and a container may hide the file."""
    try:
        with Path("/proc/kpageflags").open("rb") as file:
            return len(file.read(8)) == 8
    except OSError:
        return False


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are for root only")
needs_page_flags = pytest.mark.skipif(
    not _can_read_page_flags(), reason="/proc/kpageflags cannot be read here (root only)"
)


def page_flags() -> npt.NDArray[np.uint64]:
    with Path("/proc/kpageflags").open("rb", buffering=0) as file:
        return np.frombuffer(b"".join(iter(lambda: file.read(1 << 20), b"")), dtype="<u8")


GOLDEN, SALT = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return x ^ x >> 31


def pattern(seed: int, page: int, word: int) -> int:
    """Return what pattern.c writes: splitmix64 of seed and page, then steps of the golden ratio."""
    return (mix((seed * GOLDEN + page) & U64) + word * GOLDEN) & U64


def proof(seed: int, page: int, copy: int) -> int:
    """Return the proof of an entry, as ledger.c computes it."""
    return mix(seed ^ mix((SALT + page * 2 + copy) & U64))


class ChurnMemory:
    """The held memory of a churn process, read and written through /proc/PID/mem."""

    def __init__(self, pid: int, seed: int) -> None:
        self._pid, self._seed = pid, seed
        self._start = self._find(struct.pack("<Q", pattern(seed, 0, 0)))

    def _find(self, first_word: bytes) -> int:
        """Find the address of the page that begins with these bytes.

        The kernel may have joined its mapping with a neighbour's.
        """
        for start, end in self.mappings("rw-p"):
            for address in range(start, end, PAGE_SIZE):
                if self._access(address, len(first_word)) == first_word:
                    return address
        raise AssertionError(self.mappings("rw-p"))

    def mappings(self, access: str) -> list[tuple[int, int]]:
        """List the mappings with these rights: anonymous ones if writable, otherwise the tool's."""
        maps = Path(f"/proc/{self._pid}/maps").read_text()
        inode = "0" if "w" in access else "[1-9]"
        found = re.findall(rf"^(\w+)-(\w+) {access} \w+ \S+ {inode}", maps, re.MULTILINE)
        return [(int(start, 16), int(end, 16)) for start, end in found]

    def _access(self, address: int, size: int, change: bytes = b"") -> bytes:
        with Path(f"/proc/{self._pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address)
            data = memory.read(size)
            if change:
                memory.seek(address)
                memory.write(change)
        return data

    def lose(self, address: int, size: int) -> None:
        """Overwrite memory with zeros, as if the host had lost it; of a file, changes a copy."""
        self.write(address, bytes(size))

    def write(self, address: int, data: bytes) -> None:
        self._access(address, len(data), data)

    def ledger(self, copy: int) -> int:
        """Find the address of a copy of the tool's ledger, by its first entry."""
        return self._find(struct.pack("<QQ", self._seed, proof(self._seed, 0, copy)))

    def word(self, page: int, word: int) -> int:
        data = self._access(self._start + page * PAGE_SIZE + word * 8, 8)
        return int.from_bytes(data, "little")

    def set_word(self, page: int, word: int, value: int) -> None:
        self.write(self._start + page * PAGE_SIZE + word * 8, struct.pack("<Q", value))

    def pagemap(self) -> npt.NDArray[np.uint64]:
        with Path(f"/proc/{self._pid}/pagemap").open("rb", buffering=0) as file:
            file.seek(self._start // PAGE_SIZE * 8)
            return np.frombuffer(file.read(PAGES * 8), dtype="<u8")

    def pfns(self) -> npt.NDArray[np.uint64]:
        """Return the PFN; 0 if there is no page."""
        entries = self.pagemap()
        return np.where(entries & PRESENT, entries & PFN, 0).astype(np.uint64)


def start_churn(
    shell: LocalShell, *, seed: int = 7, hugepages: Hugepages = "never"
) -> ChurnSession:
    return ChurnSession.start(shell, size=SIZE, seed=seed, hugepages=hugepages, timeout=SECONDS)


def present(memory: ChurnMemory) -> int:
    return int(np.count_nonzero(memory.pagemap() & PRESENT))


def await_filled(pid: int, seed: int) -> ChurnMemory:
    """That of a process which does not say when it has written its last page."""
    last = pattern(seed, PAGES - 1, 511)

    def look() -> ChurnMemory | None:
        try:
            memory = ChurnMemory(pid, seed)
            return memory if memory.word(PAGES - 1, 511) == last else None
        except (AssertionError, OSError):
            return None

    return wait_for(look, Deadline(SECONDS, "the pattern to be written"))
