# SPDX-License-Identifier: Apache-2.0
"""Reads a guest's kernel from its memory, by drgn and the kernel's debug information.

Nothing in the guest or of QEMU takes part: /proc/PID/mem of QEMU gives the guest's physical memory,
and the note that Linux makes for its own crash dumps tells where its kernel lies. Pages that the
host does not hold are not touched, and read as zeros.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.deadline import Deadline
from harness.errors import ObserveError, PreconditionError
from harness.kernel.pages import HostState, StateArray
from harness.observe.ram_layout import RamLayout
from harness.record.address_map import RamPiece
from harness.units import MIB, PAGE_SIZE, format_size

_NOTE = b"OSRELEASE="
"""How the page of the note begins (kernel/vmcore_info.c, crash_save_vmcoreinfo_init())."""
_NOTE_LINES = re.compile(rb"OSRELEASE=([\x21-\x7e]+)\n(?:[\x20-\x7e]+\n)+")
_NOTE_HAS = (b"\nKERNELOFFSET=", b"\nSYMBOL(swapper_pg_dir)=")
_READ_BYTES = 16 * MIB


class GuestMemory:
    """The guest's physical memory, read from its QEMU.

    Whatever walks the guest's lists reads here at each step, so that the deadline also ends a walk
    of lists that lead in a circle.
    """

    def __init__(self, pid: int, layout: RamLayout, states: StateArray, deadline: Deadline) -> None:
        """`states`: HostState by PFN. Raises `ObserveError` if the process may not be read."""
        self.deadline = deadline
        self._pieces = layout.pieces
        self._held = states == HostState.RESIDENT
        try:
            self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ObserveError(
                f"the memory of process {pid} may not be read: {error.strerror}",
                hint="run this as root: it needs the capability CAP_SYS_PTRACE",
            ) from error

    @property
    def pieces(self) -> tuple[RamPiece, ...]:
        return self._pieces

    def read(self, piece: RamPiece, first: int, pages: int) -> bytes:
        """Read whole pages from page frame `first` on, which must lie in the piece.

        Raises `DeadlineError` once the deadline has passed.
        """
        self.deadline.check()
        data = bytearray(pages * PAGE_SIZE)
        for start, end in _runs(self._held[first : first + pages]):
            where = piece.hva + (first + start - piece.pfn_start) * PAGE_SIZE
            with contextlib.suppress(OSError):  # given back since it was looked at
                view = memoryview(data)[start * PAGE_SIZE : end * PAGE_SIZE]
                os.preadv(self._file, [view], where)
        return bytes(data)

    def note(self) -> bytes:
        """Find the kernel's note. Raises `ObserveError` if there is none, `DeadlineError`."""
        step = _READ_BYTES // PAGE_SIZE
        for piece in self._pieces:
            for first in range(piece.pfn_start, piece.pfn_end, step):
                pages = min(step, piece.pfn_end - first)
                if self._held[first : first + pages].any():
                    found = find_note(self.read(piece, first, pages))
                    if found is not None:
                        return found
        raise ObserveError(
            "guest RAM has no note of a Linux kernel for its crash dumps",
            hint="the guest's kernel is built without CONFIG_CRASH_CORE (CONFIG_VMCORE_INFO from "
            "6.9), or the guest is not Linux",
        )

    def close(self) -> None:
        os.close(self._file)


def find_note(data: bytes) -> bytes | None:
    """Find the note at the start of one of the pages of `data`."""
    at = data.find(_NOTE)
    while at >= 0:
        if at % PAGE_SIZE == 0:
            found = _NOTE_LINES.match(data, at, at + PAGE_SIZE)
            # A page of a file may begin alike.
            if found and all(line in found[0] for line in _NOTE_HAS):
                return found[0]
        at = data.find(_NOTE, at + 1)
    return None


@contextlib.contextmanager
def guest_kernel(
    pid: int, layout: RamLayout, states: StateArray, vmlinux: Path, deadline: Deadline
) -> Iterator[tuple[Any, GuestMemory]]:
    """Open the guest's kernel as a program of drgn, and its memory, which ends with the deadline.

    Raises `PreconditionError` without drgn, `ObserveError` if the debug information is of another
    kernel, `DeadlineError`.
    """
    drgn = import_drgn()
    memory = GuestMemory(pid, layout, states, deadline)
    try:
        note = memory.note()
        program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=note)
        program.set_linux_kernel_custom(note, True)
        for piece in memory.pieces:
            program.add_memory_segment(
                piece.pfn_start * PAGE_SIZE,
                (piece.pfn_end - piece.pfn_start) * PAGE_SIZE,
                _reader(memory, piece),
                True,
            )
        _load(drgn, program, vmlinux, note)
        yield program, memory
    finally:
        memory.close()


def import_drgn() -> Any:
    """Import drgn. Raises `PreconditionError` if it is not installed."""
    try:
        import drgn
    except ImportError as error:
        raise PreconditionError(
            f"--debug-info needs drgn, which cannot be imported: {error}",
            hint="install it into the harness's environment: pip install 'fpr-harness[drgn]'",
        ) from error
    return drgn


def _load(drgn: Any, program: Any, vmlinux: Path, note: bytes) -> None:
    """Load the debug information. Raises `ObserveError`."""
    release = note.partition(b"\n")[0].partition(b"=")[2].decode("ascii", errors="replace")
    try:
        program.load_debug_info([str(vmlinux)])
        size = int(program.type("struct page").size)
    except (drgn.MissingDebugInfoError, LookupError, OSError, ValueError) as error:
        raise ObserveError(
            f"{vmlinux} is no debug information of the guest's kernel {release}: {error}",
            hint=f"install the debug package of just this build (on Debian linux-image-{release}"
            f"-dbg, whose file is /usr/lib/debug/boot/vmlinux-{release})",
        ) from error
    if not 0 < size <= PAGE_SIZE:
        raise ObserveError(f"{vmlinux} has a struct page of {format_size(size)}")


def _reader(memory: GuestMemory, piece: RamPiece) -> Any:
    def read(_address: int, count: int, offset: int, _physical: bool) -> bytes:
        first = piece.pfn_start + offset // PAGE_SIZE
        pages = -(-(offset + count) // PAGE_SIZE) - offset // PAGE_SIZE
        at = offset % PAGE_SIZE
        return memory.read(piece, first, pages)[at : at + count]

    return read


def _runs(held: "np.typing.NDArray[np.bool_]") -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], held, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
