# SPDX-License-Identifier: Apache-2.0
"""Telling a guest tool that ended from a connection that broke: only the tool is the guest's."""

import re
import signal

from harness.errors import DeadlineError, GuestError, SshError, ToolCrashedError
from harness.machine.interfaces import GuestProcess

END_SECONDS = 5.0
"""For the exit status to arrive once the output has ended."""


def last_words(process: GuestProcess, error: SshError) -> str | None:
    """What the process said when it ended by itself; None if it did not end by itself.

    `error` is what reading from it or writing to it raised.
    """
    try:
        result = process.wait(END_SECONDS)
    except (SshError, DeadlineError, GuestError):
        return None
    words = result.stderr.decode(errors="replace").strip()
    return f"it ended (status {result.status}): {words}" if words else error.message


_OWN_FAULT = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
"""Signals that a program brings upon itself. The guest tool does not while its memory is sound."""


def crash_of(words: str) -> ToolCrashedError | None:
    """The error of a tool whose last words say that it crashed; None for any other end."""
    match = re.search(r"was killed by signal (\d{1,3}) ", words)
    if match is None or int(match[1]) not in _OWN_FAULT:
        return None
    return ToolCrashedError(
        f"the guest tool crashed, as it does when its own code or data is lost: {words}",
        hint="look for lost pages in the audits, and for what the guest's kernel says of the crash",
    )
