# SPDX-License-Identifier: Apache-2.0
"""QEMU's mappings of guest RAM, and the files backing them, from /proc/PID/maps.

madvise() may split a block into several mappings; address ranges identify a block, never the number
of mappings.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ObserveError
from harness.observe.ram_layout import RamLayout

# Documentation/filesystems/proc.rst: start-end perms offset major:minor inode path
MAPPING_HEADER = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) [r-][w-][x-]([ps]) ([0-9a-f]{1,16}) "
    rb"([0-9a-f]+):([0-9a-f]+) (\d{1,20})(?: +(\S.*))?",
    re.MULTILINE,
)

SHARED_ANONYMOUS = b"/dev/zero (deleted)"
"""The path Linux shows for shared anonymous memory (mm/shmem.c, shmem_zero_setup())."""


@dataclass(frozen=True)
class Mapping:
    """One VMA: host virtual bytes [start, end); if inode is not 0, mapped from `offset` (bytes) of
    that file."""

    start: int
    end: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: bytes


@dataclass(frozen=True)
class BackingFile:
    """The file backing a RAM block, reached through QEMU's own descriptor."""

    block: str
    path: Path
    """/proc/PID/fd/N."""
    offset: int
    """Offset of the block in the file, bytes."""
    shared: bool
    """QEMU's writes go to the file; otherwise they become anonymous memory beside it."""


def process_gone(pid: int, error: OSError | None = None) -> ObserveError:
    """Make the error for a process whose memory cannot be read."""
    return ObserveError(
        f"cannot read the memory map of process {pid}: {error or 'it has ended'}",
        hint="if QEMU still runs, run the harness as the user who started it",
    )


def parse_mappings(text: bytes) -> tuple[Mapping, ...]:
    """Parse every mapping in the text of /proc/PID/maps or smaps; ignore other lines."""
    return tuple(
        Mapping(
            start=int(start, 16),
            end=int(end, 16),
            shared=kind == b"s",
            offset=int(offset, 16),
            device=os.makedev(int(major, 16) & 0xFFF, int(minor, 16) & 0xFFFFF),
            inode=int(inode),
            path=path,
        )
        for start, end, kind, offset, major, minor, inode, path in MAPPING_HEADER.findall(text)
    )


def backing_files(pid: int, layout: RamLayout) -> tuple[BackingFile, ...]:
    """Find the file backing each fd-backed block; anonymous memory, even shared, has none.

    Raises ObserveError if the process has ended or belongs to another user, or if it has no open
    descriptor of a file that backs guest RAM.
    """
    try:
        mappings = parse_mappings(Path(f"/proc/{pid}/maps").read_bytes())
        if not mappings:
            raise process_gone(pid)
        descriptors: dict[tuple[int | bytes, int], Path] = {}
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in the meantime
                status = descriptor.stat()
                descriptors.setdefault((status.st_dev, status.st_ino), descriptor)
                # stat and maps name different devices for one file on btrfs, but the same path.
                name = os.fsencode(descriptor.readlink())
                descriptors.setdefault((name, status.st_ino), descriptor)
    except OSError as error:
        raise process_gone(pid, error) from error
    found = []
    for block in layout.blocks:
        for mapping in mappings:
            if (
                mapping.start <= block.hva < mapping.end
                and mapping.inode
                and mapping.path != SHARED_ANONYMOUS
            ):
                path = descriptors.get((mapping.device, mapping.inode)) or descriptors.get(
                    (mapping.path, mapping.inode)
                )
                if path is None:
                    raise ObserveError(
                        f"guest RAM {block.name} is backed by {os.fsdecode(mapping.path)}, but "
                        f"process {pid} has no open descriptor of it: cannot read what it holds",
                        hint="use another host.backend, or set TMPDIR to another file system",
                    )
                offset = mapping.offset + block.hva - mapping.start
                found.append(BackingFile(block.name, path, offset, mapping.shared))
    return tuple(found)
