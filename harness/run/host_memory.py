# SPDX-License-Identifier: Apache-2.0
"""Memory that the guests of all invocations of a user share on a host, so that it is given once.

Each guest that is in, or waits to be let in, has a file in one directory of the user's, locked by
its harness (flock(2)): the file of a harness that has ended is locked no longer and counts no more.
Users do not see each other's files. Between them only what the guests have already taken tells,
through the host's available memory.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError
from harness.units import PAGE_SIZE, format_size

LOOK_SECONDS = 0.25
"""Between looks while the guests of another invocation fill the host."""

WAIT_SECONDS = 3600.0
"""For the guests before this one; each has its own end, most within minutes."""

LOG = logging.getLogger(__name__)

LOCK_SECONDS = 10.0
"""The lock is held for moments; longer means that its holder is stopped."""

_LOCK = "lock"
GUEST_NAME = re.compile(r"\d{20}-\d+-\d+")
"""Names of the guests' files; the directory holds locks, too."""

_number = itertools.count()


@dataclass(frozen=True)
class _Guest:
    """One of the files."""

    path: Path
    is_in: bool
    size: int
    """Bytes that it may take."""
    pid: int
    """Its harness."""


class HostMemory:
    """Lets guests in, first come, first served, while what all may still take is available."""

    def __init__(
        self,
        available: Callable[[], int],
        directory: Path | None = None,
        note: Callable[[str], None] = LOG.info,
    ) -> None:
        """`available`: bytes that guests may fill now, beyond what is in use; `note`: takes what
        the user should know of a wait."""
        self._available = available
        self._given = directory
        self._note = note

    @contextmanager
    def reserve(self, size: int, cancelled: threading.Event) -> Iterator[None]:
        """Wait until `size` bytes fit, or nobody else is in, and keep them until the block ends.

        Goes on at once when `cancelled` is set, and with more than the host has, for which no wait
        is long enough. A host that lets nobody share a file is none to wait on. Raises
        `DeadlineError`.
        """
        if cancelled.is_set() or size > os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE:
            yield
            return
        with contextlib.ExitStack() as end:
            try:
                directory = self._given or host_place()
                ticket = end.enter_context(_Ticket.taken(directory, size))
                self._wait(directory, ticket, size, cancelled)
            except OSError as error:
                self._note(f"guests of other invocations are not reckoned with: {error}")
            yield

    def _wait(
        self, directory: Path, ticket: "_Ticket", size: int, cancelled: threading.Event
    ) -> None:
        what = f"{format_size(size)} that other guests on this host hold"
        deadline = Deadline(WAIT_SECONDS, what)
        told = False
        while not cancelled.is_set():
            with _locked(directory):
                guests = _guests(directory)
                if self._fits(ticket, size, guests):
                    ticket.enter()
                    return
            before = sorted({guest.pid for guest in guests if guest.path != ticket.path})
            holders = f"harnesses with guests: {', '.join(map(str, before))}"
            if not told:
                told = True
                self._note(f"waiting for {what}; {holders}")
            deadline.check(holders)
            cancelled.wait(LOOK_SECONDS)

    def _fits(self, ticket: "_Ticket", size: int, guests: list[_Guest]) -> bool:
        if any(not guest.is_in and guest.path.name < ticket.path.name for guest in guests):
            return False  # it came first
        inside = [guest for guest in guests if guest.is_in]
        return not inside or size <= self._available() - _still_to_take(inside)


def _still_to_take(guests: list[_Guest]) -> int:
    """Bytes that guests may take beyond what their QEMUs hold already."""
    sizes: dict[int, int] = {}
    for guest in guests:
        sizes[guest.pid] = sizes.get(guest.pid, 0) + guest.size
    return sum(max(0, size - _held_below(pid)) for pid, size in sizes.items())


def _held_below(pid: int) -> int:
    """Resident bytes of a harness's children; 0 where they cannot be seen (another PID namespace).

    See proc(5): `children` of each thread, and the second field of `statm`.
    """
    held = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                statm = Path(f"/proc/{child}/statm").read_text(encoding="ascii")
                held += int(statm.split()[1]) * PAGE_SIZE
    return held


class _Ticket:
    """This guest's own file. Names sort by the time they were made."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = size

    @classmethod
    @contextmanager
    def taken(cls, directory: Path, size: int) -> Iterator["_Ticket"]:
        """Raises `OSError`."""
        with _locked(directory):
            path = directory / f"{time.monotonic_ns():020}-{os.getpid()}-{next(_number)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            ticket = cls(path, descriptor, size)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ticket._write("waits")
            except BaseException:
                ticket._leave()
                raise
        try:
            yield ticket
        finally:
            ticket._leave()

    def enter(self) -> None:
        """Count as in. Raises `OSError`."""
        self._write("in")

    def _write(self, state: str) -> None:
        os.pwrite(self._descriptor, f"{state:5} {self._size} {os.getpid()}\n".encode(), 0)

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)


def _guests(directory: Path) -> list[_Guest]:
    """Those whose harness lives; the files of others are removed. Call it under the lock."""
    found = []
    for path in sorted(directory.iterdir()):
        if not GUEST_NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                state, size, pid = os.read(descriptor, 100).split()
                found.append(_Guest(path, state == b"in", int(size), int(pid)))
            else:
                path.unlink()
            finally:
                os.close(descriptor)
    return found


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One at a time, for moments. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory / _LOCK, flags, 0o600)
    try:
        if not _lock(descriptor):
            wait_for(
                lambda: _lock(descriptor) or None,
                Deadline(LOCK_SECONDS, f"the lock of {directory}"),
                interval=0.005,
            )
        yield
    except DeadlineError as error:
        raise TimeoutError(errno.ETIMEDOUT, error.message) from error
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def host_place() -> Path:
    """Return the directory, the same for every invocation of this user whatever its environment.

    In a file system that no host shares with another, as it may a home directory. Raises `OSError`
    where it cannot be made, or somebody else has made it.
    """
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    place = base / f"fpr-harness-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    state = place.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(place))
    return place
