# SPDX-License-Identifier: Apache-2.0
"""What lies at a path, in words for a message that refuses it."""

import errno
import stat
from pathlib import Path

_WORDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def why_not(path: Path, wanted: str, absent: str) -> str:
    """Say why `path` is not `wanted`: what kind of file it is or leads to, that it cannot be seen,
    or, in the words of `absent`, that nothing is there.
    """
    try:
        return f"{mode_kind(path.stat().st_mode)}, not {wanted}"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"a symbolic link that leads back to itself, not {wanted}"
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return error.strerror or str(error)
    return f"a dangling symbolic link, not {wanted}" if path.is_symlink() else absent


def mode_kind(mode: int) -> str:
    """Say what kind of file has this `st_mode` (inode(7))."""
    return _WORDS.get(stat.S_IFMT(mode), "no file of a known kind")
