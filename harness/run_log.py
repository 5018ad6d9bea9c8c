# SPDX-License-Identifier: Apache-2.0
"""`harness.log`: what the harness did in one run, line by line, and the same on a terminal with -v.

Every module logs with the standard library, `logging.getLogger(__name__)`, and knows nothing of
runs. One handler on the project's logger sends each record to the log of the run in whose context
it was made. A context variable holds that log, so a thread that works for a run is a `RunThread`.
"""

import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LOG_NAME = "harness.log"

LONGEST_MESSAGE = 4000
"""Characters of one message; qmp.log and results.jsonl have the whole of what is longer."""

PROJECT = logging.getLogger("harness")

_MARGIN = "\n" + " " * 13 + "| "
"""Before each further line of a message, so that no line of it looks like a line of the log."""


class RunLog:
    """The log of one run. Lines made before its file can be opened are kept until then."""

    def __init__(self, run_id: str, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since the run began, as the `t` of its events."""
        self.run_id = run_id
        self._clock = clock
        self._lock = threading.Lock()
        self._early: list[str] = []
        self._file: IO[str] | None = None

    def open(self, directory: Path) -> None:
        """Write to `harness.log` in `directory` from now on.

        The log is evidence, not a result: a disk that does not take it breaks no run.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                return
            # Ends in `close`.
            self._file = (directory / LOG_NAME).open("a", encoding="utf-8", buffering=1)
            self._file.writelines(self._early)
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
    """A thread whose lines go to the same log as those of the thread that makes it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._context = contextvars.copy_context()

    def run(self) -> None:
        self._context.run(super().run)


class _ToTheRun(logging.Handler):
    """Hands each record to the log of the run it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        if log is not None:
            log.write(record)


class _ToTheTerminal(logging.Handler):
    """Prints each record on standard error, with the run it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        where = "" if log is None else f"{log.run_id}: "
        with contextlib.suppress(OSError, ValueError):
            print(f"{where}{_line(record)}", file=sys.stderr, flush=True)


_to_the_run = _ToTheRun()


@contextmanager
def logging_to(log: RunLog) -> Iterator[None]:
    """While in the block, what this thread and its `RunThread`s do goes to `log`."""
    PROJECT.addHandler(_to_the_run)  # once, however often it is called
    PROJECT.setLevel(logging.DEBUG)
    # Whatever collects the records of the root logger knows nothing of runs.
    PROJECT.propagate = False
    token = _current.set(log)
    try:
        yield
    finally:
        _current.reset(token)
        log.close()


def log_to_terminal(verbosity: int) -> None:
    """Print steps and findings (1) or everything (2 and more) on standard error; 0: nothing."""
    if verbosity:
        handler = _ToTheTerminal(logging.INFO if verbosity == 1 else logging.DEBUG)
        PROJECT.addHandler(handler)
        PROJECT.setLevel(logging.DEBUG)


def _line(record: logging.LogRecord) -> str:
    """Who says what, without control characters: a guest may have chosen the words."""
    text = record.getMessage()
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]}... ({len(text) - LONGEST_MESSAGE} more characters)"
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    who = f"{record.threadName} {record.name.removeprefix('harness.')}"
    level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
    return f"{who}: {level}{escaped(text).replace(chr(10), _MARGIN)}"


def escaped(text: str) -> str:
    r"""`text` with everything but line ends and what can be printed as `\x1b` and the like."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
