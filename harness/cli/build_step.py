# SPDX-License-Identifier: Apache-2.0
"""Run the build of a commit in a process group of its own, which no signal outlives."""

import contextlib
import os
import signal
import subprocess
from types import FrameType
from typing import Any, Self

from harness.errors import InterruptedRunError

TERM_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL; make(1) uses it to remove half-written files."""


class BuildFailedError(Exception):
    """The build ended with another status than 0; the message says which."""


class _StoppedError(Exception):
    """A signal arrived; the message is its name."""


class _Signals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a `_StoppedError`; ignores further ones.

    SIGHUP stays ignored if it was, as under nohup(1).
    """

    def __init__(self) -> None:
        self._met = ""
        self._armed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Raise on a signal from here on, and for one that came before."""
        self._armed = True
        if self._met:
            raise _StoppedError(self._met)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._met:
            self._met = _signal_name(number)
            if self._armed:
                raise _StoppedError(self._met)


def run_build(command: str) -> None:
    """Run `command` in a shell that reads nothing from the terminal.

    SIGINT, SIGTERM and SIGHUP end the build with all its processes. Raises `BuildFailedError`, or
    `InterruptedRunError` after such a signal.
    """
    with _Signals() as signals:
        # Without an answer, a configuration that asks a question fails instead of waiting.
        build = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            signals.arm()
            status = build.wait()
        except _StoppedError as error:
            _end(build)
            raise InterruptedRunError(f"{error} ended the build: {command}") from error
    if status < 0:
        raise BuildFailedError(f"the build was killed by {_signal_name(-status)}: {command}")
    if status:
        raise BuildFailedError(f"the build exited with {status}: {command}")


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
