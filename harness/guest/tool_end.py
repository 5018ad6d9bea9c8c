# SPDX-License-Identifier: Apache-2.0
"""Distinguishes a guest tool that ended, the guest's doing, from a connection that broke."""

import re
import signal

from harness.errors import DeadlineError, GuestError, SshError, ToolCrashedError
from harness.machine.interfaces import GuestProcess

END_SECONDS = 5.0
"""Deadline for the exit status after the end of the output."""


def last_words(process: GuestProcess, error: SshError) -> str | None:
    """Return the last words of a process that ended by itself; None if it did not.

    `error`: what reading from the process or writing to it raised.
    """
    try:
        result = process.wait(END_SECONDS * process.pace)
    except (SshError, DeadlineError, GuestError):
        return None
    words = result.stderr.decode(errors="replace").strip()
    return f"it ended (status {result.status}): {words}" if words else error.message


_OWN_FAULT = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
"""Signals of a program's own faults. The guest tool causes none while its memory is intact."""


def crash_of(words: str) -> ToolCrashedError | None:
    """Make the error for a tool whose last words show a crash; None for any other end."""
    match = re.search(r"was killed by signal (\d{1,3}) ", words)
    if match is None or int(match[1]) not in _OWN_FAULT:
        return None
    return ToolCrashedError(
        f"the guest tool crashed, as it does when its own code or data is lost: {words}",
        hint="look for lost pages in the audits, and for the crash in console.log",
    )
