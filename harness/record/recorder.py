# SPDX-License-Identifier: Apache-2.0
"""Writes results.jsonl, the authority of every verdict, as things happen.

Several processes and threads append to one file, each line under a lock on the file. When the disk
fills, everything already written stays, each run gets one error, and the run's last words go into
blocks that the file has held in reserve beyond its end, which no other writer can take.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from pathlib import Path

from harness.closing import Closing
from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, RecordError
from harness.record.event_lines import encode
from harness.record.events import Event, Judged, LastWords, PhaseStarted, RunStarted
from harness.record.reader import RESULTS_NAME

RESERVE_BYTES = 128 * 1024
"""Disk space beyond the end of the file, for the last words of all runs of an invocation."""

_FALLOC_FL_KEEP_SIZE = 1
"""include/uapi/linux/falloc.h."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

LOCK_SECONDS = 10.0
"""Deadline for the lock. A writer holds it for one write; if longer, the writer was stopped."""


class Recorder(Closing):
    """Appends the events of many runs to `directory/results.jsonl`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Open the file. Raises `RecordError` if it cannot be opened."""
        self.path = directory / RESULTS_NAME
        self._thread_lock = threading.Lock()
        self._failure: RecordError | None = None
        self._told: set[str] = set()
        self._begun: set[str] = set()
        """Runs that have seen anything worth a sync of its own."""
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._error(error) from error

    def for_run(self, run_id: str) -> "RunRecorder":
        """Return a recorder for the events of one run."""
        return RunRecorder(self, run_id)

    def emit(self, run_id: str, event: Event) -> None:
        """Append one event; after the verdict of a run that has begun, the file is synced to disk
        before this returns, after all others when it is closed.

        Raises `RecordError` once for each run if the file cannot be written; from then on the run's
        events are dropped, except that writing its last words is still tried.
        """
        with self._thread_lock:
            if isinstance(event, RunStarted):
                self._told.discard(run_id)
            if isinstance(event, PhaseStarted):
                self._begun.add(run_id)
            if self._failure is None or isinstance(event, LastWords):
                self._try(
                    encode(run_id, event),
                    last_words=isinstance(event, LastWords),
                    sync=isinstance(event, Judged) and run_id in self._begun,
                )
            if self._failure is not None and run_id not in self._told:
                self._told.add(run_id)
                raise self._failure

    def _try(self, line: bytes, *, last_words: bool, sync: bool) -> None:
        try:
            self._append(line, from_reserve=last_words)
            if sync:
                os.fsync(self._file)
        except (OSError, DeadlineError) as error:
            self._failure = self._failure or self._error(error)

    def _append(self, line: bytes, *, from_reserve: bool) -> None:
        """Write a complete line or nothing. Raises `OSError`, `DeadlineError`."""
        self._lock()
        try:
            size = os.fstat(self._file).st_size
            # A killed writer may have left half a line: end it, so that only that line is lost.
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                line = b"\n" + line
            if not from_reserve:
                _allocate(self._file, size, len(line) + RESERVE_BYTES)
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
        number = error.errno if isinstance(error, OSError) else None
        hint = "put the results in a writable directory with --results DIR"
        if number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free space there, or put the results elsewhere with --results DIR"
        elif number == errno.EFBIG:
            hint = "allow larger files (ulimit -f), or put the results elsewhere with --results DIR"
        return RecordError(
            f"cannot write {self.path}: {reason}",
            hint=hint,
            evidence=[self.path] if self.path.exists() else [],
        )

    def close(self) -> None:
        """Release the reserve, unless the disk is full and another process may need it."""
        with contextlib.suppress(OSError, DeadlineError):
            if self._failure is None:
                self._lock()
                os.ftruncate(self._file, os.fstat(self._file).st_size)
            os.fsync(self._file)
        os.close(self._file)


def _allocate(file: int, start: int, length: int) -> None:
    """Allocate blocks of a file, beyond its end too, without a change of its size.

    Raises `OSError` if there is no room. A file system that cannot do it (NFS before 4.2, some of
    FUSE) keeps no reserve.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    offset, size = ctypes.c_longlong(start), ctypes.c_longlong(length)
    if libc.fallocate64(file, _FALLOC_FL_KEEP_SIZE, offset, size):
        number = ctypes.get_errno()
        if number in _FULL:
            raise OSError(number, os.strerror(number))


class RunRecorder:
    """A `Recorder` for the events of one run."""

    def __init__(self, recorder: Recorder, run_id: str) -> None:
        self._recorder = recorder
        self._run_id = run_id

    def emit(self, event: Event) -> None:
        """Append one event of the run; see `Recorder.emit`."""
        self._recorder.emit(self._run_id, event)
