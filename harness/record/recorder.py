# SPDX-License-Identifier: Apache-2.0
"""Writes results.jsonl, the authority of every verdict, as things happen.

Several processes and threads append to one file, each line under a lock on the file. When the disk
fills, everything already written stays, each run gets one error, and a small reserve is freed so
that the run's last words still fit.
"""

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
from pathlib import Path
from typing import IO

from harness.closing import Closing
from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, RecordError
from harness.record.event_lines import encode
from harness.record.events import Event, Judged, LastWords, PhaseStarted, RunStarted
from harness.record.reader import RESULTS_NAME
from harness.units import PAGE_SIZE

RESERVE_BYTES = 128 * 1024
"""Disk space reserved for the last words of all runs of an invocation."""

LOCK_SECONDS = 10.0
"""Deadline for the lock. A writer holds it for one write; if longer, the writer was stopped."""


class Recorder(Closing):
    """Appends the events of many runs to `directory/results.jsonl`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Open the file and set up the reserve. Raises `RecordError` if it cannot be opened."""
        self.path = directory / RESULTS_NAME
        self._thread_lock = threading.Lock()
        self._failure: RecordError | None = None
        self._told: set[str] = set()
        self._begun: set[str] = set()
        """Runs that have seen anything worth a sync of its own."""
        self._reserve: IO[bytes] | None = None
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._error(error) from error
        # The reserve is optional: a file system that cannot preallocate still takes results.
        with contextlib.suppress(OSError):
            self._reserve = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - ends in close()
            os.posix_fallocate(self._reserve.fileno(), 0, RESERVE_BYTES)

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
        # What the reserve frees others may take first, so as often as there is some of it.
        while True:
            try:
                self._append(line)
                if sync:
                    os.fsync(self._file)
            except (OSError, DeadlineError) as error:
                self._failure = self._failure or self._error(error)
                if last_words and self._give_up(len(line)):
                    continue
            return

    def _give_up(self, size: int) -> bool:
        """Free as much of the reserve as `size` bytes need; False if none of it was left.

        Freeing all of it at once would let the guest's logs, on the same disk, take the space
        before the verdict is written.
        """
        if self._reserve is None:
            return False
        reserve = self._reserve.fileno()
        left = os.fstat(reserve).st_size
        os.ftruncate(reserve, max(0, left - size - 2 * PAGE_SIZE))
        return left > 0

    def _append(self, line: bytes) -> None:
        """Write a complete line or nothing. Raises `OSError`, `DeadlineError`."""
        self._lock()
        try:
            size = os.fstat(self._file).st_size
            # A killed writer may have left half a line: end it, so that only that line is lost.
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
        """Release the file and the reserve."""
        if self._reserve is not None:
            self._reserve.close()
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)


class RunRecorder:
    """A `Recorder` for the events of one run."""

    def __init__(self, recorder: Recorder, run_id: str) -> None:
        self._recorder = recorder
        self._run_id = run_id

    def emit(self, event: Event) -> None:
        """Append one event of the run; see `Recorder.emit`."""
        self._recorder.emit(self._run_id, event)
