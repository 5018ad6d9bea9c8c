# SPDX-License-Identifier: Apache-2.0
"""Deadlines: every wait in the project has one and names what it waits for."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from harness.errors import DeadlineError
from harness.stalls import lost_seconds

T = TypeVar("T")

LOG = logging.getLogger(__name__)


class Deadline:
    """A point on the monotonic clock by which `what` must have happened.

    It moves on by what this process was stopped meanwhile (`harness.stalls`).

    `kind` is the class of the error it raises.
    """

    def __init__(
        self, seconds: float, what: str, kind: type[DeadlineError] = DeadlineError
    ) -> None:
        self.seconds = seconds
        self.what = what
        self._kind = kind
        self._end = time.monotonic() + seconds
        self._lost = lost_seconds()

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end + self._stopped - time.monotonic())

    @property
    def _stopped(self) -> float:
        return lost_seconds() - self._lost

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0

    def error(self, seen: str = "") -> DeadlineError:
        """Make the error to raise once the deadline has passed; `seen` is the last observation."""
        detail = f"; last seen: {seen}" if seen else ""
        if self._stopped:
            detail += f"; the harness itself was stopped for another {self._stopped:.1f} s"
        error = self._kind(f"waited {self.seconds:.1f} s for {self.what}{detail}")
        LOG.debug("deadline passed: %s", error.message)
        return error

    @contextlib.contextmanager
    def covering(self) -> Iterator[None]:
        """Let a wait for what is left of this one fail as this one, with its time and its words."""
        try:
            yield
        except DeadlineError as error:
            if self.passed:
                raise self.error() from error
            raise

    def check(self, seen: str = "") -> None:
        """Raise `DeadlineError` if the deadline has passed."""
        if self.passed:
            raise self.error(seen)


def wait_for(
    probe: Callable[[], T | None],
    deadline: Deadline,
    *,
    interval: float = 0.02,
    wake: threading.Event | None = None,
) -> T:
    """Poll `probe` until it returns something other than None, and return that.

    `interval` is the pause between polls in seconds; setting `wake` cuts a pause short.
    Raises `DeadlineError` if the deadline passes first; exceptions of `probe` propagate.
    """
    began = time.monotonic()
    value = probe()
    if value is not None:
        return value
    LOG.debug("waiting at most %.1f s for %s", deadline.remaining, deadline.what)
    retrying = tenacity.Retrying(
        stop=lambda _state: deadline.passed,
        wait=tenacity.wait_fixed(interval),
        retry=tenacity.retry_if_result(lambda value: value is None),
        sleep=tenacity.sleep_using_event(wake) if wake is not None else time.sleep,
    )
    try:
        value = retrying(probe)
    except tenacity.RetryError as error:
        raise deadline.error() from error
    assert value is not None  # for the type checker: the retry rule ensures it
    LOG.debug("waited %.3f s for %s", time.monotonic() - began, deadline.what)
    return value
