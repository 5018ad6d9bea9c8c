# SPDX-License-Identifier: Apache-2.0
"""Standard streams that can be relied on, whatever the shell gave us."""

import os
import sys


def ensure_streams() -> None:
    """Open what the caller closed (`>&-`), and let no character that a terminal lacks end us.

    A closed descriptor would be given to the next file that is opened: what is meant for standard
    output would then be written into results.jsonl.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    # Python gives no stream where there was no descriptor; each lives as long as the process.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
