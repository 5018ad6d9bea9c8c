# SPDX-License-Identifier: Apache-2.0
"""What a living harness owns, told by a lock that it holds and not by a name or a number.

A process id means nothing in another PID namespace, and is given to others later. A lock of
flock(2) is the kernel's: it is there for as long as the descriptor is, in every namespace.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

OWNER_FILE = "owner.lock"


class Ownership:
    """A directory's `OWNER_FILE`, made and locked; nobody else can take it until `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def claim(cls, directory: Path) -> Self:
        """Own a directory that was just made. Raises `OSError`."""
        # It appears under its name only when it is locked.
        early = directory / f".{OWNER_FILE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(early, flags, 0o600)
        try:
            os.write(descriptor, f"{os.getpid()}\n".encode())  # for people
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            early.rename(directory / OWNER_FILE)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Own it no longer; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def is_abandoned(directory: Path) -> bool:
    """Whether the directory is this user's and whoever owned it has ended.

    One without an `OWNER_FILE` is being made.
    """
    with contextlib.suppress(OSError):
        if directory.lstat().st_uid != os.geteuid():
            return False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(directory / OWNER_FILE, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        return True
    return False
