# SPDX-License-Identifier: Apache-2.0
"""Opening files of a results directory, which may come from anybody.

A FIFO in place of a file would never open, and a device never end.
"""

import errno
import io
import os
import stat
from pathlib import Path

from harness.file_kind import mode_kind


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading. Raises `OSError`, also for anything but a regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        # What open(2) says of a socket.
        if error.errno == errno.ENXIO:
            raise _other_kind(path, path.stat().st_mode) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _other_kind(path, mode)  # noqa: TRY301
        return open(descriptor, "rb")  # noqa: PTH123 - the caller closes it
    except BaseException:
        os.close(descriptor)
        raise


def _other_kind(path: Path, mode: int) -> OSError:
    return OSError(errno.EINVAL, f"it is {mode_kind(mode)}, not a regular file", str(path))
