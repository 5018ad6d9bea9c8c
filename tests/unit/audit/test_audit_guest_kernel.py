# SPDX-License-Identifier: Apache-2.0
"""Reading a guest's kernel from memory: of this process, which stands for QEMU."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from harness.audit.guest_kernel import GuestMemory, find_note, import_drgn
from harness.deadline import Deadline
from harness.errors import DeadlineError, ObserveError, PreconditionError
from harness.kernel.pages import HostState
from harness.observe.ram_layout import RamBlock, RamLayout
from harness.record.address_map import RamPiece
from harness.units import PAGE_SIZE

NOTE = (
    b"OSRELEASE=6.1.0-50-cloud-amd64\nBUILD-ID=0123\nPAGESIZE=4096\n"
    b"SYMBOL(swapper_pg_dir)=ffffffff82e10000\nKERNELOFFSET=1000000\n"
)
PAGES = 16


@pytest.fixture
def ram() -> Iterator[mmap.mmap]:
    memory = mmap.mmap(-1, PAGES * PAGE_SIZE)
    yield memory
    memory.close()


def memory_of(ram: mmap.mmap, held: list[int], seconds: float = 60.0) -> GuestMemory:
    address = ctypes.addressof(ctypes.c_char.from_buffer(ram))
    states = np.full(PAGES, HostState.ABSENT, np.uint8)
    states[held] = HostState.RESIDENT
    pieces = (RamPiece(0, PAGES, "ram", 0, address),)
    layout = RamLayout(pieces, (RamBlock("ram", PAGES * PAGE_SIZE, PAGE_SIZE, address),))
    return GuestMemory(os.getpid(), layout, states, Deadline(seconds, "the kernel"))


def test_only_pages_that_the_host_holds_are_read(ram: mmap.mmap) -> None:
    ram.write(b"x" * PAGES * PAGE_SIZE)
    memory = memory_of(ram, [2, 3, 7])
    data = memory.read(memory.pieces[0], 1, 7)
    memory.close()
    seen = [data[at : at + 1] for at in range(0, len(data), PAGE_SIZE)]
    assert seen == [b"\0", b"x", b"x", b"\0", b"\0", b"\0", b"x"]


def test_the_kernels_note_is_found_wherever_it_lies(ram: mmap.mmap) -> None:
    ram[5 * PAGE_SIZE : 5 * PAGE_SIZE + len(NOTE)] = NOTE
    memory = memory_of(ram, [5])
    assert memory.note() == NOTE
    memory.close()
    memory = memory_of(ram, [4])
    with pytest.raises(ObserveError, match="has no note"):
        memory.note()
    memory.close()


def test_once_its_deadline_has_passed_nothing_is_read(ram: mmap.mmap) -> None:
    memory = memory_of(ram, [0], seconds=0.0)
    with pytest.raises(DeadlineError, match=r"waited 0\.0 s for the kernel"):
        memory.note()
    memory.close()


@pytest.mark.parametrize(
    "data",
    [
        b"x" + NOTE,  # not at the start of a page: a copy, as in the crash kernel's ELF header
        b"OSRELEASE=6.1\nPAGESIZE=4096\n".ljust(PAGE_SIZE, b"\0"),  # a file that begins alike
        NOTE.replace(b"\n", b"\r"),
        b"",
    ],
)
def test_what_only_looks_like_the_note_is_none(data: bytes) -> None:
    assert find_note(data) is None


def test_the_note_ends_where_its_lines_end() -> None:
    assert find_note(bytes(PAGE_SIZE) + NOTE + b"\0rest") == NOTE


def test_without_drgn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(PreconditionError, match="needs drgn") as told:
        import_drgn()
    assert "fpr-harness[drgn]" in told.value.hint
