# SPDX-License-Identifier: Apache-2.0
"""Which host address backs which guest-physical page, as QEMU tells it.

The flat view of the address space (`info mtree -f`) gives the RAM block and offset that back each
guest-physical range; `gpa2hva` gives the address of a block in QEMU's memory. Guest RAM is what
`query-memdev` lists: video memory and firmware are RAM blocks too, but not guest RAM. Of what it
lists, the memory of virtio-pmem is a disk, and has no name in `info ramblock`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from harness.errors import ObserveError
from harness.machine.interfaces import Monitor
from harness.record.address_map import RamPiece
from harness.units import GIB, KIB, MIB, PAGE_SIZE

_VIEW = re.compile(r"^FlatView #\d+$", re.MULTILINE)
_MEMORY_SPACE = re.compile(r'^ AS "memory", root: ', re.MULTILINE)
# system/memory.c (softmmu/memory.c before QEMU 8.2), mtree_print_flatview(); the last words
# name the accelerator, once for each address space of the view.
_REGION = re.compile(
    r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): "
    r"(\S.*?)(?: @([0-9a-f]{16}))?(?: [A-Z]+)*$",
    re.MULTILINE,
)
# system/physmem.c, ram_block_format(); QEMU 8 and later add columns at the end.
_BLOCK = re.compile(
    r"^ *(\S.*?) +(\d{1,20}) (B|KiB|MiB|GiB)"
    r" +0x[0-9a-f]{1,16} +0x[0-9a-f]{1,16} +0x([0-9a-f]{1,16})\b",
    re.MULTILINE,
)
_NAMELESS = re.compile(r"^ +\d{1,20} (?:B|KiB|MiB|GiB) +0x", re.MULTILINE)
_HVA = re.compile(r"^Host virtual address for 0x[0-9a-f]+ \((.*)\) is 0x([0-9a-f]{1,16})\s*$")
_SYSTEM_RAM = re.compile(r"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) : System RAM$", re.MULTILINE)
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


@dataclass(frozen=True)
class RamRegion:
    """Guest-physical bytes [start, end), backed by `block` from byte `offset`."""

    start: int
    end: int
    block: str
    offset: int


@dataclass(frozen=True)
class RamBlock:
    """One RAM block in QEMU's memory: bytes [hva, hva + size), in pages of `page_size` bytes."""

    name: str
    size: int
    page_size: int
    hva: int


def parse_flat_view(text: str) -> tuple[RamRegion, ...]:
    """Parse the RAM and ROM regions of the address space "memory" from `info mtree -f`.

    Raises ObserveError if the text does not contain that address space.
    """
    for view in _VIEW.split(text)[1:]:
        if _MEMORY_SPACE.search(view):
            return tuple(
                RamRegion(int(start, 16), int(last, 16) + 1, _leaf(name), int(offset or "0", 16))
                for start, last, name, offset in _REGION.findall(view)
            )
    raise ObserveError(
        f'`info mtree -f` shows no flat view of the address space "memory": {text[:200]!r}',
        hint="check that this QEMU is a system emulator of version 4 or later",
    )


def parse_ram_blocks(text: str) -> dict[str, tuple[int, int]]:
    """Parse `info ramblock` into (size, page size) in bytes by block name. Raises ObserveError."""
    blocks = {
        _leaf(name): (int(total, 16), int(count) * _UNITS[unit])
        for name, count, unit, total in _BLOCK.findall(text)
    }
    if not blocks:
        raise ObserveError(f"`info ramblock` lists no RAM block: {text[:200]!r}")
    return blocks


def parse_host_address(text: str) -> tuple[str, int]:
    """Parse `gpa2hva` into (block name, host virtual address). Raises ObserveError."""
    match = _HVA.match(text)
    if match is None:
        raise ObserveError(f"`gpa2hva` returned no host address: {text.strip()[:200]!r}")
    return _leaf(match[1]), int(match[2], 16)


def parse_system_ram(text: str) -> tuple[tuple[int, int], ...]:
    """Parse the System RAM ranges of the guest's /proc/iomem, as [start, end) in bytes.

    Raises ObserveError if there is none, or if all addresses are 0, as without root.
    """
    ranges = tuple((int(start, 16), int(last, 16) + 1) for start, last in _SYSTEM_RAM.findall(text))
    if not any(end > 1 for _, end in ranges):
        raise ObserveError(
            f"the guest's /proc/iomem shows no System RAM: {text[:200]!r}",
            hint="read it as root in the guest",
        )
    return ranges


def _leaf(name: str) -> str:
    """Return the backend's id: QEMU calls a block `m0`, `0000:00:02.0/m0` or `/objects/m0`."""
    return name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class RamLayout:
    """The layout of guest RAM when read; memory hotplug changes it."""

    pieces: tuple[RamPiece, ...]
    """Ascending by PFN, disjoint."""
    blocks: tuple[RamBlock, ...]

    @classmethod
    def read(cls, monitor: Monitor, *, timeout: float = 10.0) -> Self:
        """Ask QEMU, with `timeout` seconds for each command. Raises ObserveError, QmpError.

        Before the guest has booted, pages below 1 MiB may be missing: the firmware maps them.
        """
        backends = {str(entry["id"]) for entry in monitor.execute("query-memdev", timeout=timeout)}
        listed = monitor.human("info ramblock", timeout=timeout)
        sizes = parse_ram_blocks(listed)
        backed = [
            region
            for region in parse_flat_view(monitor.human("info mtree -f", timeout=timeout))
            if region.block in backends
        ]
        missing = {region.block for region in backed} - sizes.keys()
        if len(missing) > len(_NAMELESS.findall(listed)):
            raise ObserveError(f"`info ramblock` does not list the blocks {sorted(missing)}")
        regions = [region for region in backed if region.block in sizes]
        if not regions:
            raise ObserveError(
                "`info mtree -f` shows no guest RAM in QEMU's address space; `query-memdev` lists "
                f"the memory backends {sorted(backends)}"
            )
        bases: dict[str, int] = {}
        for region in regions:
            name, hva = parse_host_address(
                monitor.human(f"gpa2hva {region.start:#x}", timeout=timeout)
            )
            base = hva - region.offset
            if name != region.block or bases.setdefault(name, base) != base:
                raise ObserveError(
                    f"QEMU contradicts itself: `info mtree -f` shows {region}, but `gpa2hva` puts "
                    f"it in block {name} at {hva:#x}"
                )
        return cls(
            pieces=tuple(
                RamPiece(
                    pfn_start=region.start // PAGE_SIZE,
                    pfn_end=region.end // PAGE_SIZE,
                    block=region.block,
                    block_offset=region.offset,
                    hva=bases[region.block] + region.offset,
                )
                for region in sorted(regions, key=lambda region: region.start)
            ),
            blocks=tuple(RamBlock(name, *sizes[name], hva) for name, hva in bases.items()),
        )

    @property
    def pfn_end(self) -> int:
        """One past the last PFN: the length of every per-page array."""
        return self.pieces[-1].pfn_end

    def block(self, name: str) -> RamBlock:
        """Return the block of that name; every piece has one."""
        return next(block for block in self.blocks if block.name == name)

    def uncovered(self, system_ram: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Find the parts of the guest's System RAM that no piece backs; normally none.

        Ranges are [start, end) in bytes.
        """
        gaps = []
        for start, end in sorted(system_ram):
            at = start
            for piece in self.pieces:
                piece_start, piece_end = piece.pfn_start * PAGE_SIZE, piece.pfn_end * PAGE_SIZE
                if piece_end <= at or piece_start >= end:
                    continue
                if piece_start > at:
                    gaps.append((at, piece_start))
                at = piece_end
            if at < end:
                gaps.append((at, end))
        return tuple(gaps)
