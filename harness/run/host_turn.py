# SPDX-License-Identifier: Apache-2.0
"""Turns on a host: functional runs share it, a measurement has it for itself.

Two files of one directory of the user's (`harness.run.host_memory`) are locked, shared or exclusive
(flock(2)). Whoever wants the host holds `gate` while it waits for `turn`: a measurement that waits
thus lets no further run in before it, and runs that wait behind one are in before the next. The
kernel unlocks what a harness that was killed held.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.run.host_memory import LOOK_SECONDS, WAIT_SECONDS, host_place

LOG = logging.getLogger(__name__)

HELD = "FPR_HOST_TURN_HELD"
"""Set in the environment of processes whose parent holds the host for them (`make bench`)."""

GATE, TURN = "gate", "turn"
"""Names of the files."""


class HostTurn:
    """Gives the host to many functional runs, or to one measurement."""

    def __init__(
        self, directory: Path | None = None, note: Callable[[str], None] = LOG.info
    ) -> None:
        """`note`: takes what the user should know of a wait."""
        self._given = directory
        self._note = note

    @contextmanager
    def take(self, *, alone: bool, cancelled: threading.Event) -> Iterator[None]:
        """Wait for the turn, and keep it until the block ends.

        Goes on at once when `cancelled` is set. Where no file can be shared there is nobody to wait
        for. Raises `DeadlineError`.
        """
        with contextlib.ExitStack() as end:
            if HELD not in os.environ:
                try:
                    directory = self._given or host_place()
                    gate, turn = (
                        end.enter_context(_opened(directory / name)) for name in (GATE, TURN)
                    )
                    self._wait(gate, turn, alone=alone, cancelled=cancelled)
                except OSError as error:
                    self._note(f"measurements of other invocations are not awaited: {error}")
            yield

    def _wait(self, gate: int, turn: int, *, alone: bool, cancelled: threading.Event) -> None:
        what = (
            "the host, to measure alone: until no other guest of this user runs"
            if alone
            else "a measurement that has the host for itself"
        )
        deadline = Deadline(WAIT_SECONDS, what)
        told = False
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        for descriptor in (gate, turn):
            while not cancelled.is_set() and not _lock(descriptor, kind):
                if not told:
                    told = True
                    self._note(f"waiting for {what}")
                deadline.check("the lock is held")
                cancelled.wait(LOOK_SECONDS)
        fcntl.flock(gate, fcntl.LOCK_UN)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file, which unlocks it in the end. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
