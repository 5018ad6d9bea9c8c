# SPDX-License-Identifier: Apache-2.0
"""How long this process did not run although it should have.

Whatever stops it (SIGSTOP to a job, a freezer, a pause of the machine that it runs in) mostly stops
its guests as well. A deadline that counted such a time would find a guest hung that had no chance.
"""

import os
import threading
import time
from collections.abc import Callable

PERIOD_SECONDS = 0.5

LEAST_SECONDS = 3.0
"""A shorter delay is that of a busy machine, for which deadlines have room."""


class Pulse:
    """Beats once in a period, as long as the process runs; the beats that are late tell."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._lost = 0.0

    def beat(self) -> None:
        """Count what is lost since the last beat."""
        with self._lock:
            self._lost += self._late()
            self._last = self._clock()

    @property
    def lost(self) -> float:
        """Seconds lost so far. It never falls, and needs no beat after a stall."""
        with self._lock:
            return self._lost + self._late()

    def _late(self) -> float:
        late = self._clock() - self._last - PERIOD_SECONDS
        return late if late >= LEAST_SECONDS else 0.0


_starting = threading.Lock()
_pulse: Pulse | None = None


def lost_seconds() -> float:
    """Seconds in which this process was stopped, since the first call; 0.0 where the host lets it
    have no thread to notice.
    """
    global _pulse
    with _starting:
        if _pulse is None:
            # Not time.monotonic(), which tests replace.
            pulse = Pulse(lambda: time.clock_gettime(time.CLOCK_MONOTONIC))
            try:
                threading.Thread(target=_go_on, args=(pulse,), name="pulse", daemon=True).start()
            except RuntimeError:
                return 0.0
            _pulse = pulse
    return _pulse.lost


def _forget() -> None:
    """Start anew in a forked process, which has no thread that beats."""
    global _pulse, _starting
    _pulse, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _go_on(pulse: Pulse) -> None:
    never = threading.Event()
    while not never.wait(PERIOD_SECONDS):
        pulse.beat()
