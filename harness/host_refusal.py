# SPDX-License-Identifier: Apache-2.0
"""What the host refuses for its limits, and what to do about it.

A thread, process, file or byte too many is no defect of the harness and says nothing about a guest.
"""

import errno
import resource

from harness.errors import LaunchError
from harness.units import MIB, format_size

_FEWER = "or run fewer guests at once with --jobs"

_HINTS = {
    errno.ENOENT: "install util-linux (setpriv) if it is missing",
    errno.EACCES: "check the permissions of that file",
    errno.EMFILE: f"allow more open files (ulimit -n), {_FEWER}",
    errno.ENFILE: "the host is out of open files: run fewer guests at once with --jobs",
    errno.ENOMEM: f"free memory on the host or allow more of it (ulimit -v), {_FEWER}",
    errno.EAGAIN: f"allow more processes and threads (ulimit -u), {_FEWER}",
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space on the disk, or have your quota raised",
    errno.EFBIG: "allow larger files (ulimit -f)",
}

_LIMITS = frozenset(_HINTS) - {errno.ENOENT, errno.EACCES}

LEAST_MEMORY = 384 * MIB
"""Of address space: what Python, numpy and SciPy map comes to some 330 MiB on x86_64."""

_NO_THREAD = "can't start new thread"
"""What Python says where pthread_create(3) fails (Modules/_threadmodule.c, 3.11 to 3.13)."""


def refusal_hint(error: OSError) -> str:
    """What to do about a system call that the host refused."""
    return _HINTS.get(error.errno or 0, "see `fpr-harness doctor`")


def _memory_limit() -> int | None:
    """Bytes of address space that this process may have; None: no limit."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def check_memory_limit() -> None:
    """Raise `LaunchError` where not even numpy could be loaded: OpenBLAS then ends the process."""
    limit = _memory_limit()
    if limit is not None and limit < LEAST_MEMORY:
        raise LaunchError(
            f"this process may have {format_size(limit)} of memory (ulimit -v or -d), and needs "
            f"{format_size(LEAST_MEMORY)} for itself",
            hint="allow more; each guest's QEMU needs its memory and 0.5 GiB beside it",
        )


def refusal(error: BaseException, doing: str) -> LaunchError | None:
    """The error to go on with, if the host refused something for its limits while `doing`."""
    match error:
        case RuntimeError() if str(error) == _NO_THREAD:
            seen, number = "it let no further thread start", errno.EAGAIN
        # Without a limit it is more likely the harness that asked for too much.
        case MemoryError() if _memory_limit() is not None:
            seen, number = "it gave no more memory", errno.ENOMEM
        case OSError() if error.errno in _LIMITS:
            seen, number = str(error), error.errno
        case _:
            return None
    return LaunchError(
        f"the host refused what it takes to go on while {doing}: {seen}", hint=_HINTS[number]
    )
