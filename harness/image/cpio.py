# SPDX-License-Identifier: Apache-2.0
"""Writes initramfs archives in cpio's "newc" format; the same entries give the same bytes.

The kernel unpacks several concatenated archives, so that files such as a run's SSH keys can be
appended to an image (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class CpioEntry:
    """One file, directory, link or device; `path` has no leading slash."""

    path: str
    mode: int
    """Type and permissions, as in `st_mode`."""
    data: bytes = b""
    """The file's content, or the target of a symbolic link."""
    rdev: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def file_entry(path: str, data: bytes, permissions: int = 0o644) -> CpioEntry:
    """Make the entry of a regular file."""
    return CpioEntry(path, stat.S_IFREG | permissions, data)


def directory_entry(path: str, permissions: int = 0o755) -> CpioEntry:
    """Make the entry of a directory; its parents need entries of their own before it."""
    return CpioEntry(path, stat.S_IFDIR | permissions)


def link_entry(path: str, target: str) -> CpioEntry:
    """Make the entry of a symbolic link."""
    return CpioEntry(path, stat.S_IFLNK | 0o777, target.encode())


def write_cpio(entries: Iterable[CpioEntry]) -> bytes:
    """Write the entries in order, owned by root, with time 0; the length is a multiple of 4."""
    archive = bytearray()
    for number, entry in enumerate(entries, start=1):
        archive += _member(entry, number)
    archive += _member(CpioEntry(_TRAILER, 0), 0)
    return bytes(archive)


def _member(entry: CpioEntry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # device of the file system, major and minor
        0,
        *entry.rdev,
        len(name),
        0,  # checksum, unused in this format
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
