# SPDX-License-Identifier: Apache-2.0
"""Run the build of a commit in a process group of its own, which no signal outlives."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

from harness.errors import InterruptedRunError

TERM_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL; make(1) uses it to remove half-written files."""


class BuildFailedError(Exception):
    """The build ended with another status than 0; the message says which."""


class _StoppedError(Exception):
    """A signal arrived."""


def run_build(command: str) -> None:
    """Run `command` in a shell that reads nothing from the terminal.

    SIGINT, SIGTERM and SIGHUP end the build with all its processes. Raises `BuildFailedError`, or
    `InterruptedRunError` after such a signal.
    """
    with _stopped_by_signals():
        # Without an answer, a configuration that asks a question fails instead of waiting.
        build = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            status = build.wait()
        except _StoppedError as error:
            _end(build)
            raise InterruptedRunError(f"{error} ended the build: {command}") from error
    if status < 0:
        raise BuildFailedError(f"the build was killed by {_signal_name(-status)}: {command}")
    if status:
        raise BuildFailedError(f"the build exited with {status}: {command}")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise `_StoppedError` in the block on the first SIGINT, SIGTERM or SIGHUP.

    Further ones are ignored while the build is ended. SIGHUP stays ignored if it was, as under
    nohup(1).
    """
    stopped = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise _StoppedError(_signal_name(number))

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(build: subprocess.Popen[bytes]) -> None:
    """End the process group by SIGTERM, and what is left of it by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(build.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            build.wait(TERM_SECONDS)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
