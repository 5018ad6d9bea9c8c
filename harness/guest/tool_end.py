# SPDX-License-Identifier: Apache-2.0
"""Telling a guest tool that ended from a connection that broke: only the tool is the guest's."""

from harness.errors import DeadlineError, SshError
from harness.machine.interfaces import GuestProcess

END_SECONDS = 5.0
"""For the exit status to arrive once the output has ended."""


def last_words(process: GuestProcess, error: SshError) -> str | None:
    """What the process said when it ended by itself; None if it did not end by itself.

    `error` is what reading from it or writing to it raised.
    """
    try:
        result = process.wait(END_SECONDS)
    except (SshError, DeadlineError):
        return None
    words = result.stderr.decode(errors="replace").strip()
    return f"it ended (status {result.status}): {words}" if words else error.message
