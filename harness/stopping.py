# SPDX-License-Identifier: Apache-2.0
"""A request to stop, seen by work that is far from whoever got it.

Runs are handed their request; the building of images is called from many places, in the main
thread and in those of runs, and finds in a context variable the request that it works under.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator

from harness.errors import InterruptedRunError

LOOK_SECONDS = 0.1
"""Between looks of a wait that may be stopped."""

_request: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar(
    "stop_request", default=None
)


@contextlib.contextmanager
def stoppable(request: threading.Event) -> Iterator[None]:
    """While in the block, `check_stop` of this thread heeds `request`."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def check_stop(doing: str) -> None:
    """Raise `InterruptedRunError` once whoever this thread works for was asked to stop."""
    request = _request.get()
    if request is not None and request.is_set():
        raise InterruptedRunError(f"asked to stop while {doing}")
