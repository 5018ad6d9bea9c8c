# SPDX-License-Identifier: Apache-2.0
"""Make the standard streams usable, whatever the caller has done to them."""

import os
import sys


def ensure_streams() -> None:
    """Open closed streams (`>&-`), and escape characters that the output encoding lacks.

    The next file opened would reuse a closed descriptor, so that output would go into, say,
    results.jsonl.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
    # Python makes no stream for a closed descriptor. These live as long as the process.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
