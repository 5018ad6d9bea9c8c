# SPDX-License-Identifier: Apache-2.0
"""Finds the QEMU processes of this host, and one of them by its pid or name."""

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.audit.qemu_words import QemuWords, is_qemu, read_words
from harness.errors import ObserveError
from harness.units import KIB

_RSS = re.compile(r"^VmRSS:\s+(\d{1,20}) kB$", re.MULTILINE)
_TGID = re.compile(r"^Tgid:\s+(\d{1,10})$", re.MULTILINE)
_UID = re.compile(r"^Uid:\s+(\d{1,10})\s+(\d{1,10})", re.MULTILINE)
_STOPPED = re.compile(r"^State:\s+[Tt]\b", re.MULTILINE)
PROC = Path("/proc")


@dataclass(frozen=True)
class QemuProcess:
    """A running QEMU."""

    pid: int
    words: QemuWords
    rss: int | None
    """Bytes, from /proc/PID/status; None once it has ended."""
    user: str
    """Whom it runs as."""
    readable: bool
    """Whether this process may read its memory map."""


def list_qemus(proc: Path = PROC) -> list[QemuProcess]:
    """List every QEMU of the host by pid, those whose memory may not be read included."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit() and (process := _look(entry)) is not None:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def qemu_of(number: int, proc: Path = PROC) -> QemuProcess | None:
    """Return the QEMU with a process or thread of that number, None if there is none."""
    status = _text(proc / f"{number}" / "status")
    leader = _TGID.search(status)
    return _look(proc / (leader[1] if leader else f"{number}"))


def find_pid(pid: int, proc: Path = PROC) -> QemuProcess:
    """Return the QEMU of that pid, whose memory this process may read. Raises `ObserveError`."""
    entry = proc / f"{pid}"
    if not entry.is_dir():
        raise ObserveError(
            f"there is no process {pid}, or /proc hides it (hidepid)",
            hint="`fpr-harness audit` without arguments lists the QEMU processes",
        )
    process = qemu_of(pid, proc)
    if process is None:
        name = _text(entry / "comm").partition("\n")[0] or "unknown"
        raise ObserveError(
            f"process {pid} ({name}) is no QEMU system emulator",
            hint="`fpr-harness audit` without arguments lists the QEMU processes",
        )
    check_readable(process)
    return process


def find_name(name: str, qemus: Sequence[QemuProcess]) -> QemuProcess:
    """Return the only one of the QEMUs with that name. Raises `ObserveError`."""
    named = [process for process in qemus if process.words.name == name]
    if not named:
        raise ObserveError(
            f"no QEMU of this host is called {name!r}",
            hint="`fpr-harness audit` without arguments lists them",
        )
    if len(named) > 1:
        pids = ", ".join(str(process.pid) for process in named)
        raise ObserveError(
            f"{len(named)} QEMUs are called {name!r}: the processes {pids}",
            hint="name one by --pid",
        )
    check_readable(named[0])
    return named[0]


def check_readable(process: QemuProcess) -> None:
    """Raise `ObserveError` if this process may not read the memory map of that one."""
    if process.readable:
        return
    message = f"process {process.pid} runs as {process.user}, and its memory map may not be read"
    if process.user == user_name(os.geteuid()):
        raise ObserveError(
            f"{message}: it has changed its user itself (-runas), or has capabilities that this "
            "process lacks",
            hint="run this with the capability CAP_SYS_PTRACE (as root)",
        )
    raise ObserveError(
        message,
        hint=f"run this as {process.user} (sudo -u {process.user} fpr-harness audit ...), or with "
        "the capability CAP_SYS_PTRACE (as root)",
    )


def socket_paths(process: QemuProcess, proc: Path = PROC) -> list[Path]:
    """Return the QMP sockets of the process, as paths that lead there from here."""
    return _from_here(process, process.words.sockets, proc)


def agent_paths(process: QemuProcess, proc: Path = PROC) -> list[Path]:
    """Return the sockets of its guest agent's port, as paths that lead there from here."""
    return _from_here(process, process.words.agents, proc)


def _from_here(process: QemuProcess, names: Sequence[str], proc: Path) -> list[Path]:
    """A QEMU in a container names paths of its own file system."""
    found = []
    for name in names:
        path = Path(name)
        if not path.is_absolute():
            path = proc / f"{process.pid}" / "cwd" / path
        elif not os.path.exists(path):  # noqa: PTH110 (Path.exists raises where it may not look)
            inside = proc / f"{process.pid}" / "root" / path.relative_to("/")
            path = inside if os.path.exists(inside) else path  # noqa: PTH110
        found.append(path)
    return found


def _look(entry: Path) -> QemuProcess | None:
    """Look at one process; None if it has ended or is no QEMU."""
    try:
        words = [os.fsdecode(word) for word in (entry / "cmdline").read_bytes().split(b"\0")]
        status = (entry / "status").read_text(errors="replace")
    except OSError:
        return None
    try:
        program = os.fsdecode((entry / "exe").readlink())
    except OSError:
        program = ""
    if not words[0] or not is_qemu(program, words):
        return None
    rss = _RSS.search(status)
    return QemuProcess(
        pid=int(entry.name),
        words=read_words(words[:-1]),
        rss=int(rss[1]) * KIB if rss else None,
        user=_user(status),
        readable=_may_read(entry),
    )


def _may_read(entry: Path) -> bool:
    """Try what an audit does; the kernel asks for permission to trace (ptrace(2))."""
    try:
        with (entry / "smaps").open("rb", buffering=0) as maps:
            maps.read(1)
        with (entry / "pagemap").open("rb", buffering=0):
            return True
    except OSError:
        return False


def _user(status: str) -> str:
    uid = _UID.search(status)
    return user_name(int(uid[2])) if uid is not None else "an unknown user"


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether a process is stopped by a signal or traced (T and t, proc(5))."""
    return _STOPPED.search(_text(proc / f"{pid}" / "status")) is not None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
