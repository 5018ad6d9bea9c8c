# SPDX-License-Identifier: Apache-2.0
"""QEMU's mappings of guest RAM, and the files behind them, from /proc/PID/maps.

QEMU may split a block into several mappings (madvise), so what counts is the address, never
the number of mappings.
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
"""What Linux calls memory that is shared but no file (mm/shmem.c)."""


@dataclass(frozen=True)
class Mapping:
    """One VMA: host virtual bytes [start, end), from `offset` of the file if inode is not 0."""

    start: int
    end: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: bytes


@dataclass(frozen=True)
class BackingFile:
    """The file behind a RAM block, reached through QEMU's own descriptor."""

    block: str
    path: Path
    """/proc/PID/fd/N."""
    offset: int
    """Where in the file the block starts, bytes."""


def process_gone(pid: int, error: OSError | None = None) -> ObserveError:
    """The error for a process that can no longer be looked at."""
    return ObserveError(
        f"cannot look at process {pid}: {error or 'it has ended'}",
        hint="if QEMU still runs, run the harness as the user who started it",
    )


def parse_mappings(text: bytes) -> tuple[Mapping, ...]:
    """Every mapping named in the text of /proc/PID/maps or smaps; other lines are passed over."""
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
    """The file behind each fd-backed block; blocks of anonymous memory (also shared) have none.

    Raises ObserveError when the process is gone or belongs to somebody else, or when it has no
    descriptor of a file that it has mapped as guest RAM.
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
                        f"guest RAM {block.name} is the file {os.fsdecode(mapping.path)}, but no "
                        f"descriptor of process {pid} is: what it holds cannot be read",
                        hint="use another host.backend, or set TMPDIR to another file system",
                    )
                offset = mapping.offset + block.hva - mapping.start
                found.append(BackingFile(block.name, path, offset))
    return tuple(found)
