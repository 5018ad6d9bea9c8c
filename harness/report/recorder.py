# SPDX-License-Identifier: Apache-2.0
"""results.jsonl: the authority of every verdict, written as things happen.

Several processes and threads append to one file: each line is one write to a descriptor opened
for appending, under a lock on the file. When the disk fills, everything already measured stays,
the run is told once, and a small reserve is given back so that its last words still fit.
"""

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, RecordError
from harness.ledger.events import Event, Judged, LastWords, RunStarted
from harness.report.eventlines import decode, encode

RESULTS_NAME = "results.jsonl"

RESERVE_BYTES = 64 * 1024
"""Room for the last words of every run of an invocation."""

LOCK_SECONDS = 10.0
"""A writer holds the lock for one write; longer means that it is stopped."""

POLL_SECONDS = 0.2


class Recorder:
    """Appends the events of many runs to `directory/results.jsonl`. Safe for threads."""

    def __init__(self, directory: Path) -> None:
        """Raises `RecordError` if the file cannot be opened."""
        self.path = directory / RESULTS_NAME
        self._thread_lock = threading.Lock()
        self._failure: RecordError | None = None
        self._told: set[str] = set()
        self._reserve: IO[bytes] | None = None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(error) from error
        # The reserve is a nicety: a file system that cannot make one still takes results.
        with contextlib.suppress(OSError):
            self._reserve = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - ends in close()
            os.posix_fallocate(self._reserve.fileno(), 0, RESERVE_BYTES)

    def for_run(self, run_id: str) -> "RunRecorder":
        """The same recorder, speaking for one run."""
        return RunRecorder(self, run_id)

    def emit(self, run_id: str, event: Event) -> None:
        """Append one event; on a run's `Judged` the file is on the disk when this returns.

        Raises `RecordError` once for each run if the file cannot be written; after that the run's
        events are dropped, but for its last words, which are tried.
        """
        with self._thread_lock:
            if isinstance(event, RunStarted):
                self._told.discard(run_id)
            if self._failure is None or isinstance(event, LastWords):
                self._try(encode(run_id, event), sync=isinstance(event, Judged))
            if self._failure is not None and run_id not in self._told:
                self._told.add(run_id)
                raise self._failure

    def _try(self, line: bytes, *, sync: bool) -> None:
        for attempt in ("first", "from the reserve"):
            try:
                self._append(line)
                if sync:
                    os.fsync(self._file)
            except (OSError, DeadlineError) as error:
                self._failure = self._failure or self._error(error)
                if attempt == "first" and self._reserve is not None:
                    self._reserve.close()
                    self._reserve = None
                    continue
            return

    def _append(self, line: bytes) -> None:
        """One whole line, or none. Raises `OSError`, `DeadlineError`."""
        self._lock()
        try:
            size = os.fstat(self._file).st_size
            # A writer that was killed may have left half a line: end it, so that only it is lost.
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                line = b"\n" + line
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, size)
                raise
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _lock(self) -> None:
        def taken() -> bool | None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return True

        if taken() is None:
            wait_for(taken, Deadline(LOCK_SECONDS, f"the lock on {self.path}"), interval=0.002)

    def _error(self, error: OSError | DeadlineError) -> RecordError:
        reason = error.strerror if isinstance(error, OSError) else error.message
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return RecordError(
            f"cannot write {self.path}: {reason}",
            hint="free space there, or put the results elsewhere with --results DIR"
            if full
            else "put the results into a directory you may write, with --results DIR",
            evidence=[self.path] if self.path.exists() else [],
        )

    def close(self) -> None:
        """Release the file and the reserve."""
        if self._reserve is not None:
            self._reserve.close()
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RunRecorder:
    """A `Recorder` that knows its run."""

    def __init__(self, recorder: Recorder, run_id: str) -> None:
        self._recorder = recorder
        self._run_id = run_id

    def emit(self, event: Event) -> None:
        """See `Recorder.emit`."""
        self._recorder.emit(self._run_id, event)


def read_events(path: Path) -> Iterator[tuple[str, Event]]:
    """Every event of a file with its run, in the order written; torn lines are passed over.

    Raises `RecordError` if the file cannot be read or a whole line is no event.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                found = _decode(path, number, line)
                if found is not None:
                    yield found
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", evidence=[path]) from error


def tail_events(path: Path, stop: threading.Event) -> Iterator[tuple[str, Event]]:
    """Events as they are written, from the first one; ends after `stop` with what is there then.

    The file need not exist yet. Raises `RecordError` like `read_events`.
    """
    rest, number, offset = b"", 0, 0
    while True:
        last = stop.is_set()
        chunk = _read_from(path, offset)
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            found = _decode(path, number, line)
            if found is not None:
                yield found
        if last:
            return
        stop.wait(POLL_SECONDS)


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", evidence=[path]) from error


def _decode(path: Path, number: int, line: bytes) -> tuple[str, Event] | None:
    try:
        return decode(line)
    except ValueError as error:
        raise RecordError(
            f"{path}:{number}: {error}",
            hint="the file was changed by hand, or written by another version",
            evidence=[path],
        ) from error
