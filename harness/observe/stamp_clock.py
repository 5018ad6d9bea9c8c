# SPDX-License-Identifier: Apache-2.0
"""Stamps of the host's wall clock on the monotonic clock, also where the wall clock is stepped."""

import time

SLACK_SECONDS = 0.05
"""What a stamp may be off for the time between QEMU's look at the clock and its write; a smaller
step does not matter."""


class StampClock:
    """For a log that is read as it grows: a line was written between one read and the next.

    NTP slews the clock, and each read takes that in; an administrator, a resumed host or a first
    synchronisation steps it, and then only the time of reading tells which clock a line is by.
    """

    def __init__(self) -> None:
        self._now = self._before = time.monotonic()
        self._offset = self._offset_before = self._now - time.time()

    def look(self) -> None:
        """A read begins."""
        self._before, self._offset_before = self._now, self._offset
        self._now = time.monotonic()
        self._offset = self._now - time.time()

    def place(self, stamp: float | None) -> float:
        """When a line of this read was written; without a stamp, the moment of the read."""
        if stamp is None:
            return self._now
        at = stamp + self._offset
        if abs(self._offset - self._offset_before) > SLACK_SECONDS:
            for offset in (self._offset, self._offset_before):
                if self._before - SLACK_SECONDS <= stamp + offset <= self._now + SLACK_SECONDS:
                    at = stamp + offset
                    break
            else:
                at = self._now
        return min(at, self._now)
