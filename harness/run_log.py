# SPDX-License-Identifier: Apache-2.0
"""`harness.log`: what the harness did in one run, line by line; -v shows the same on the terminal.

Every module logs through `logging.getLogger(__name__)` and knows nothing about runs. One handler
on the project's logger sends each record to the log of the current run, which a context variable
holds. A thread that works for a run must therefore be a `RunThread`, which copies the context.
"""

import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.limited_file import LimitedFile

LOG_NAME = "harness.log"

LONGEST_MESSAGE = 4000
"""Characters of one message; qmp.log and results.jsonl hold longer ones in full."""

PROJECT = logging.getLogger("harness")

_MARGIN = "\n" + " " * 13 + "| "
"""Prefix of a message's second and further lines, so that none looks like a log line."""


class RunLog:
    """The log of one run, which keeps lines in memory until its file can be opened."""

    def __init__(self, run_id: str, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the run began, like the `t` of its events."""
        self.run_id = run_id
        self._clock = clock
        self._lock = threading.Lock()
        self._early: list[str] = []
        self._file: LimitedFile | None = None

    def open(self, directory: Path) -> None:
        """Open `harness.log` in `directory` and write the lines kept so far.

        The log is evidence, not a result, so a write error does not break the run.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                return
            # `close` closes it.
            self._file = LimitedFile(directory / LOG_NAME, "a")
            for line in self._early:
                self._file.write(line)
            self._early.clear()

    def write(self, record: logging.LogRecord) -> None:
        """Add a record; called from any thread."""
        line = f"{self._clock():12.6f} {_line(record)}\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                self._file.write(line)
            else:
                self._early.append(line)

    def close(self) -> None:
        """Release the file."""
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


_current: contextvars.ContextVar[RunLog | None] = contextvars.ContextVar("run_log", default=None)


class RunThread(threading.Thread):
    """A thread that logs to the same run as the thread that created it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._context = contextvars.copy_context()

    def run(self) -> None:
        self._context.run(super().run)


class _ToTheRun(logging.Handler):
    """Writes each record to the log of its run."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        if log is not None:
            log.write(record)


class _ToTheTerminal(logging.Handler):
    """Prints each record on standard error, prefixed with its run."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        where = "" if log is None else f"{log.run_id}: "
        with contextlib.suppress(OSError, ValueError):
            print(f"{where}{_line(record)}", file=sys.stderr, flush=True)


_to_the_run = _ToTheRun()


@contextmanager
def logging_to(log: RunLog) -> Iterator[None]:
    """While in the block, send the records of this thread and its `RunThread`s to `log`."""
    PROJECT.addHandler(_to_the_run)  # addHandler adds a handler only once
    PROJECT.setLevel(logging.DEBUG)
    # Handlers of the root logger cannot tell the runs apart.
    PROJECT.propagate = False
    token = _current.set(log)
    try:
        yield
    finally:
        _current.reset(token)
        log.close()


def log_to_terminal(verbosity: int) -> None:
    """Print nothing (0), steps and findings (1) or everything (2 and more) on standard error."""
    if verbosity:
        handler = _ToTheTerminal(logging.INFO if verbosity == 1 else logging.DEBUG)
        PROJECT.addHandler(handler)
        PROJECT.setLevel(logging.DEBUG)


def _line(record: logging.LogRecord) -> str:
    """Format a record; control characters are escaped, because a guest may have sent the text."""
    text = record.getMessage()
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]}... ({len(text) - LONGEST_MESSAGE} more characters)"
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    who = f"{record.threadName} {record.name.removeprefix('harness.')}"
    level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
    return f"{who}: {level}{escaped(text).replace(chr(10), _MARGIN)}"


def escaped(text: str) -> str:
    r"""Escape all characters of `text` except line ends and printable ones (`\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
