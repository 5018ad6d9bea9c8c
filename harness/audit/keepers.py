# SPDX-License-Identifier: Apache-2.0
"""Says who in the guest keeps its memory, by name, from the guest's kernel in QEMU's memory."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.audit.guest_kernel import GuestMemory, guest_kernel
from harness.audit.struct_pages import Kind, Owners, PageShape, kept_blocks, owners
from harness.deadline import Deadline
from harness.errors import DeadlineError, ObserveError
from harness.kernel.pages import StateArray
from harness.observe.ram_layout import RamLayout
from harness.units import PAGE_SIZE, format_size

MOST_FILES = 40
"""How many files are called by their names, the largest; a name costs many reads."""

MOST_AREAS = 200_000
"""Of all processes; beyond it, the anonymous memory of the others has no names."""

OPEN_SECONDS, PAGES_SECONDS, NAMES_SECONDS = 60.0, 60.0, 20.0
"""The most that finding the guest's kernel, looking at all its pages, and naming their users take:
what a guest's kernel says of itself may be broken or hostile. 1 GiB takes 3 s in all."""

NOT_NAMED = "not named in time"

MOST_NAME_BYTES = 200
"""Of a slab cache."""

_DAMAGE = (ArithmeticError, LookupError, RecursionError, ValueError)
"""What drgn's helpers raise, besides its FaultError, over structures that make no sense."""

_SECTION_PAGES = 1 << 15
"""Page frames whose `struct page` lie together: a section of 128 MiB (SECTION_SIZE_BITS)."""

Sort = Literal["slab", "file", "process", "page_tables", "kernel"]
_SORTS: dict[Kind, Sort] = {
    Kind.SLAB: "slab",
    Kind.FILE: "file",
    Kind.ANONYMOUS: "process",
    Kind.PAGE_TABLE: "page_tables",
    Kind.KERNEL: "kernel",
}


@dataclass(frozen=True)
class Keeper:
    """One user of the guest's memory."""

    sort: Sort
    name: str
    """Of the slab cache, file or process; empty for page tables and all else of the kernel."""
    size: int
    """Bytes in use, held by the host or not."""
    blocks: int
    """Blocks of 2 MiB, partly free, in which it is the largest user."""
    keeps_free: int
    """Bytes free in these blocks, which are too small to be reported."""


@dataclass(frozen=True)
class Keepers:
    """Whom the look at the guest's kernel has found."""

    found: tuple[Keeper, ...]
    """Those who keep the most first."""
    unknown: tuple[str, ...]
    """What it had no time for, in sentences."""


def find_keepers(pid: int, layout: RamLayout, states: StateArray, vmlinux: Path) -> Keepers:
    """Find who keeps guest memory, as far as that takes a bearable time.

    `states`: HostState by PFN. Raises `PreconditionError` without drgn, `ObserveError` without the
    right debug information.
    """
    opening = Deadline(OPEN_SECONDS, "the guest's kernel")
    try:
        with guest_kernel(pid, layout, states, vmlinux, opening) as (program, memory):
            users = _Users()
            memory.deadline = Deadline(PAGES_SECONDS, "the guest's pages")
            shape = page_shape(program)
            missed = users.look(program, memory, shape)
            memory.deadline = Deadline(NAMES_SECONDS, "the names of the guest's processes")
            names = _Names(program, users.sizes)
            return Keepers(users.keepers(names), (*missed, *names.missed))
    except DeadlineError as error:
        return Keepers((), (f"who in the guest keeps its memory: {error.message}",))


class _Users:
    """Sums up what each owner keeps."""

    def __init__(self) -> None:
        self.sizes: Counter[int] = Counter()
        self._blocks: Counter[int] = Counter()
        self._free: Counter[int] = Counter()

    def look(self, program: Any, memory: GuestMemory, shape: PageShape) -> tuple[str, ...]:
        """Look at all pages, and return what there was no time for."""
        looked = 0
        missed: tuple[str, ...] = ()
        try:
            for own in _all_owners(program, memory, shape):
                self._add(own)
                looked += len(own)
        except DeadlineError:
            pages = sum(piece.pfn_end - piece.pfn_start for piece in memory.pieces) - looked
            missed = (
                f"who keeps the last {format_size(pages * PAGE_SIZE)} of the guest's memory: the "
                f"look at its pages was ended after {PAGES_SECONDS:.0f} s",
            )
        self.sizes.pop(Kind.FREE, None)
        return missed

    def _add(self, own: Owners) -> None:
        names, counts = np.unique(own, return_counts=True)
        self.sizes.update(dict(zip(names.tolist(), counts.tolist(), strict=True)))
        for keeper, pages in zip(*(part.tolist() for part in kept_blocks(own)), strict=True):
            self._blocks[keeper] += 1
            self._free[keeper] += pages

    def keepers(self, names: "_Names") -> tuple[Keeper, ...]:
        """List them by name."""
        found: dict[tuple[Sort, str], list[int]] = {}
        for owner, pages in self.sizes.items():
            sums = found.setdefault((_SORTS[Kind(owner & 7)], names.name(owner)), [0, 0, 0])
            for index, more in enumerate((pages, self._blocks[owner], self._free[owner])):
                sums[index] += more
        keepers = (
            Keeper(sort, name, pages * PAGE_SIZE, count, kept * PAGE_SIZE)
            for (sort, name), (pages, count, kept) in found.items()
        )
        return tuple(sorted(keepers, key=lambda keeper: -(keeper.size + keeper.keeps_free)))


def _all_owners(program: Any, memory: GuestMemory, shape: PageShape) -> Iterator[Owners]:
    """Yield the owners of the pages of each section of guest RAM."""
    import drgn

    base = program["vmemmap_base"].value_()
    for piece in memory.pieces:
        for first in range(piece.pfn_start, piece.pfn_end, _SECTION_PAGES):
            pages = min(_SECTION_PAGES, piece.pfn_end - first)
            where = base + first * shape.size
            try:
                raw = program.read(where, pages * shape.size)
            except drgn.FaultError:
                continue  # no memory of the guest's kernel
            yield owners(raw, shape, where)


def page_shape(program: Any) -> PageShape:
    """Ask the debug information. Raises `ObserveError` for a kernel whose pages are unknown."""
    import drgn

    page, slab = program.type("struct page"), program.type("struct slab")
    types, slab_flag = _types(program)
    return PageShape(
        size=page.size,
        flags=drgn.offsetof(page, "flags"),
        compound_head=drgn.offsetof(page, "compound_head"),
        mapping=drgn.offsetof(page, "mapping"),
        private=drgn.offsetof(page, "private"),
        page_type=drgn.offsetof(page, "page_type"),
        refcount=drgn.offsetof(page, "_refcount"),
        slab_cache=drgn.offsetof(slab, "slab_cache"),
        slab_flag=slab_flag,
        types=types,
    )


def _types(program: Any) -> tuple[dict[Kind, tuple[int, int]], int | None]:
    """Find how page types are told, and the flag of slab pages (include/linux/page-flags.h)."""
    try:  # from 6.12 on, one byte
        names = {
            Kind.FREE: "PGTY_buddy",
            Kind.PAGE_TABLE: "PGTY_table",
            Kind.SLAB: "PGTY_slab",
        }
        return {
            kind: (0xFF << 24, program.constant(name).value_() << 24)
            for kind, name in names.items()
        }, None
    except LookupError:
        pass
    try:  # up to 6.9: cleared bits below a constant; PG_buddy and PG_table of 4.18 and later
        flag = program.constant("PG_slab").value_()
    except LookupError:
        raise ObserveError(
            "the harness does not know how this kernel marks its pages (Linux 6.10 and 6.11)"
        ) from None
    return {kind: (0xF0000000 | bit, 0xF0000000) for kind, bit in _CLEARED.items()}, flag


_CLEARED = {Kind.FREE: 0x80, Kind.PAGE_TABLE: 0x200}


class _Names:
    """Names owners."""

    def __init__(self, program: Any, sizes: Counter[int]) -> None:
        self._program = program
        self._missing = 0
        files = [owner for owner in sizes if owner & 7 == Kind.FILE]
        self._files = set(sorted(files, key=lambda owner: -sizes[owner])[:MOST_FILES])
        self._processes = _Processes(program)

    @property
    def missed(self) -> tuple[str, ...]:
        """What there was no time for."""
        words: tuple[str, ...] = ()
        if not self._processes.complete:
            words += (
                "the names of all of the guest's processes: their list is broken, or "
                f"longer than {NAMES_SECONDS:.0f} s or {MOST_AREAS} mappings",
            )
        if self._missing:
            words += (f"the names of {self._missing} of the guest's files and slab caches",)
        return words

    def name(self, owner: int) -> str:
        """Name one; the damage of a running guest is no name."""
        import drgn

        kind, pointer = Kind(owner & 7), owner & ~7
        try:
            if kind is Kind.SLAB:
                cache = drgn.Object(self._program, "struct kmem_cache *", pointer)
                return self._string(cache.name)
            if kind is Kind.FILE:
                return self._file(pointer) if owner in self._files else "smaller files"
        except (drgn.FaultError, *_DAMAGE):
            return "unreadable"
        except DeadlineError:
            self._missing += 1
            return NOT_NAMED
        if kind is Kind.ANONYMOUS:
            unknown = "shared after fork, or of a process that has ended"
            if not self._processes.complete:
                unknown = NOT_NAMED
            return self._processes.names.get(pointer, unknown)
        return ""

    def _string(self, pointer: Any) -> str:
        text = self._program.read_c_string(pointer.value_(), max_size=MOST_NAME_BYTES)
        return str(text.decode(errors="replace"))

    def _file(self, pointer: int) -> str:
        import drgn
        from drgn.helpers.linux.fs import inode_path

        mapping = drgn.Object(self._program, "struct address_space *", pointer)
        inode = mapping.host
        if not inode:
            return "swap cache"
        path = inode_path(inode)
        disk = inode.i_sb.s_id.string_().decode(errors="replace")
        if path is None:
            return f"{disk}: inode {inode.i_ino.value_()}"
        return f"{disk}: {path.decode(errors='replace')}"


class _Processes:
    """Names the process of each anon_vma: the first that has it."""

    def __init__(self, program: Any) -> None:
        self.names: dict[int, str] = {}
        self.complete = False
        import drgn

        with contextlib.suppress(DeadlineError, drgn.FaultError, *_DAMAGE):
            self._walk(program)
        self.names.pop(0, None)

    def _walk(self, program: Any) -> None:
        import drgn
        from drgn.helpers.linux.mm import for_each_vma
        from drgn.helpers.linux.pid import for_each_task

        left = MOST_AREAS
        for task in for_each_task(program):
            try:
                if not task.mm or task.pid.value_() != task.tgid.value_():
                    continue
                name = f"{task.comm.string_().decode(errors='replace')} ({task.pid.value_()})"
                for area in for_each_vma(task.mm):
                    self.names.setdefault(area.anon_vma.value_(), name)
                    left -= 1
                    if left < 0:
                        return
            except (drgn.FaultError, *_DAMAGE):
                continue  # it ended while it was looked at
        self.complete = True
