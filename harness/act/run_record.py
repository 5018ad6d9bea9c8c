# SPDX-License-Identifier: Apache-2.0
"""Record the events of a run as they happen, on the run's clock."""

import threading
import time
from collections.abc import Callable

from harness.errors import RecordError
from harness.record.events import ConsoleFinding, Event, LastWords


class RunRecord:
    """The clock and the events of a run; writes each event through `emit`."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._failure: RecordError | None = None

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def relative(self, at: float) -> float:
        """Convert a time of the host's monotonic clock to seconds since the run began."""
        return at - self._start

    @property
    def saw_a_crash(self) -> bool:
        """Whether the guest's console has shown a crash."""
        return any(isinstance(e, ConsoleFinding) and e.severity == "crash" for e in self.events)

    def add(self, event: Event) -> None:
        """Keep an event and write it; callable from any thread.

        Raises `RecordError` if it cannot be written, and for all later events in any thread,
        except the `LastWords` of a run, which are always tried.
        """
        with self._lock:
            if self._failure is not None and not isinstance(event, LastWords):
                raise self._failure
            self.events.append(event)
            try:
                self.emit(event)
            except RecordError as error:
                self._failure = error
                raise
