# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and its kin: a request that all of an invocation ends, with a verdict for every run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from harness.machine.process import kill_all, stop_all
from harness.stopping import stoppable


class StopRequest:
    """Whether the runs were asked to stop."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    @property
    def made(self) -> bool:
        """Whether they were."""
        return self.cancelled.is_set()

    def stop(self) -> None:
        """Ask every run to end now; safe in a signal handler. A second call kills at once."""
        if self.made:
            kill_all()
            return
        self.cancelled.set()
        stop_all()


@contextmanager
def stopping_on_signals(request: StopRequest, then: Callable[[], None]) -> Iterator[None]:
    """While in the block, SIGINT, SIGTERM and SIGHUP make the request and call `then`; work of this
    thread that is `stoppable` heeds it.

    Not SIGHUP where it is ignored, as under nohup(1). Only in the main thread, where Python runs
    signal handlers.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        request.stop()
        then()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        with stoppable(request.cancelled):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
