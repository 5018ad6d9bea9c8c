# SPDX-License-Identifier: Apache-2.0
"""Keep the host's transparent huge pages away from one QEMU.

QEMU asks for huge pages for all guest memory (MADV_HUGEPAGE, system/physmem.c), so the host's
khugepaged may fill a huge page that the guest has given back in part. The setting of a process
prevails over madvise(), and an execve() keeps it (PR_SET_THP_DISABLE, prctl(2)).
"""

import sys
from pathlib import Path
from typing import Literal

from harness.errors import LaunchError

HugePages = Literal["host", "never"]

_PR_SET_THP_DISABLE = 41
"""include/uapi/linux/prctl.h, since Linux 3.15."""

_PROGRAM = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl({_PR_SET_THP_DISABLE}, 1, 0, 0, 0):
    sys.exit("prctl(PR_SET_THP_DISABLE): " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""A program of its own, because a process with threads can run nothing between fork and exec."""


def launcher(thp: HugePages) -> list[str]:
    """Return the words to put before a command so that it gets huge pages as `thp` says."""
    return [] if thp == "host" else [sys.executable, "-I", "-S", "-c", _PROGRAM]


def check_huge_pages(pid: int, thp: HugePages) -> None:
    """Raise `LaunchError` if process `pid` may get huge pages against `thp`."""
    if thp == "host":
        return
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return  # QEMU has ended, which the next wait reports
    if "\nTHP_enabled:\t0\n" not in status:
        raise LaunchError(
            "the host may give QEMU transparent huge pages although the scenario forbids it "
            f"(/proc/{pid}/status does not say THP_enabled: 0)",
            hint="it needs Linux 5.0 with transparent huge pages; leave out `host.thp`",
        )
