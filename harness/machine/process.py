# SPDX-License-Identifier: Apache-2.0
"""QEMU's process: its own group, its own directory, and a certain end.

The kernel kills it when the *thread* that started it ends (`PR_SET_PDEATHSIG`, prctl(2)), so a
harness killed outright leaves no QEMU. A VM must therefore be started and used by one thread.
"""

import contextlib
import errno
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError, LaunchError
from harness.units import format_size

LOG = logging.getLogger(__name__)

QUIT_SECONDS = 5.0
TERM_SECONDS = 5.0
KILL_SECONDS = 10.0
OWNER_FILE = "owner"

LONGEST_SOCKET = "debug.sock"
SOCKET_PATH_BYTES = 107
"""unix(7): 108 bytes of `sun_path`, the last a zero."""

_LOG_PREFIX = re.compile(r"^(?:\d{4}-\d\d-\d\dT\S+Z )?(?:qemu-system-x86_64: )?")
"""What `-msg timestamp=on` and QEMU's own name put before its words."""

_ERROR_HINTS = {
    errno.ENOENT: "is util-linux (setpriv) installed?",
    errno.EACCES: "see the rights of the file named",
    errno.EMFILE: "allow more open files (ulimit -n), or run fewer guests at once with --jobs",
    errno.ENFILE: "the host has no more open files: run fewer guests at once with --jobs",
    errno.ENOMEM: "free the host's memory, or run fewer guests at once with --jobs",
    errno.EAGAIN: "allow more processes (ulimit -u), or run fewer guests at once with --jobs",
    errno.ENOSPC: "free the disk",
}

_live: dict[str, "QemuProcess"] = {}
"""By VM id: what `stop_all` and `kill_all` act on. Only whole assignments, so that a signal
handler may read it without a lock."""


class RuntimeDirectory:
    """A directory of mode 0700 for one VM's sockets, keys and RAM files.

    It lies in `$XDG_RUNTIME_DIR`, or in the directory for temporary files where that is not usable
    or, being as a rule a small tmpfs, has no room for `ram_files` bytes. It lies there directly:
    a directory of a known name in between could be made by another user beforehand.
    """

    def __init__(self, ram_files: int = 0) -> None:
        self.vm_id = f"fpr-{uuid.uuid4().hex[:12]}"
        refused = []
        for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
            if base:
                self.path = Path(base) / self.vm_id
                try:
                    self._make(ram_files)
                except OSError as error:
                    refused.append(f"{base}: {error.strerror or error}")
                else:
                    return
        raise LaunchError(
            f"no place for the VM's own directory ({'; '.join(refused)})",
            hint="set TMPDIR to a directory of yours with a short path and enough room",
        )

    def _make(self, ram_files: int) -> None:
        if len(os.fsencode(self.path / LONGEST_SOCKET)) > SOCKET_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, "too long a path for a socket")
        if ram_files and shutil.disk_usage(self.path.parent).free < ram_files:
            raise OSError(errno.ENOSPC, f"no room for {format_size(ram_files)} of guest memory")
        _sweep(self.path.parent)
        self.path.mkdir(mode=0o700)
        (self.path / OWNER_FILE).write_text(_identity(os.getpid()), encoding="ascii")

    def remove(self) -> None:
        """Remove it and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sweep(base: Path) -> None:
    """End and remove what a harness of this user that was killed outright has left."""
    for directory in base.glob("fpr-" + "[0-9a-f]" * 12):
        try:
            if directory.lstat().st_uid != os.getuid():
                continue
            owner = (directory / OWNER_FILE).read_text(encoding="ascii")
            pid = int(owner.split()[0])
        except (OSError, ValueError, IndexError):
            continue
        if _identity(pid) != owner:
            # It can have died before setpriv asked for the signal.
            _kill_processes(processes_of(directory.name))
            shutil.rmtree(directory, ignore_errors=True)


def _identity(pid: int) -> str:
    """A process that cannot be mistaken for a later one: pid and start time (proc(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"


class QemuProcess:
    """A running QEMU. Make it with the words to run; end it with `end`."""

    def __init__(
        self,
        argv: Sequence[str],
        directory: RuntimeDirectory,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        """`environment` is added to this process's own."""
        self.argv = list(argv)
        self.log = log
        self._directory = directory
        # setpriv (util-linux) sets the death signal and becomes QEMU: a preexec_fn is not safe in
        # a process with threads.
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv]
        added = [f"{name}={value}" for name, value in environment.items()]
        LOG.debug("starting QEMU: %s", shlex.join([*added, *command]))
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **environment},
                )
        except OSError as error:
            raise LaunchError(f"cannot start QEMU: {error}", hint=launch_hint(error)) from error
        LOG.debug("QEMU runs as process %d", self.pid)
        _live[directory.vm_id] = self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal (subprocess.Popen); None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last lines of its log, on one line."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = (_LOG_PREFIX.sub("", line).strip() for line in text.splitlines()[-3:])
        return " / ".join(line for line in lines if line)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to QEMU's whole group; none if it has ended."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self, ask: Callable[[], None] | None) -> None:
        """End it: `ask` (QMP quit), SIGTERM, SIGKILL, each with its deadline; then nothing is left.

        Raises `LaunchError` only if even SIGKILL does not end it (it hangs in a system call).
        """
        try:
            if ask is not None and self.alive:
                with contextlib.suppress(HarnessError):
                    ask()
                    self._wait(QUIT_SECONDS)
            if self.alive:
                LOG.debug("QEMU does not end by itself: SIGTERM")
                # A stopped process (SIGSTOP) takes no SIGTERM.
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGTERM)
                with contextlib.suppress(DeadlineError):
                    self._wait(TERM_SECONDS)
        finally:
            # Also when a wait above was interrupted: what is interrupted must end too.
            self._kill()
            LOG.debug("QEMU has ended: status %s", self._process.returncode)

    def _kill(self) -> None:
        if self.alive:
            LOG.debug("QEMU still runs: SIGKILL")
        self.signal(signal.SIGKILL)
        _kill_processes(pid for pid in processes_of(self._directory.vm_id) if pid != self.pid)
        try:
            self._wait(KILL_SECONDS)
            wait_for(
                lambda: None if processes_of(self._directory.vm_id) else True,
                Deadline(KILL_SECONDS, "QEMU's other processes to end"),
            )
        except DeadlineError as error:
            raise LaunchError(
                f"QEMU (pid {self.pid}) does not end, not even on SIGKILL: {error.message}",
                hint="it hangs in the host's kernel: see /proc/PID/stack and dmesg",
            ) from error
        _live.pop(self._directory.vm_id, None)

    def _wait(self, seconds: float) -> None:
        wait_for(
            lambda: None if self.alive else True, Deadline(seconds, "QEMU to end"), interval=0.01
        )


def launch_hint(error: OSError) -> str:
    """What to do about a launch that the host refused."""
    return _ERROR_HINTS.get(error.errno or 0, "see `fpr-harness doctor`")


def processes_of(vm_id: str) -> list[int]:
    """Processes of this user whose command line names this VM: anybody can write that name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if f"guest={vm_id}".encode() in words and entry.stat().st_uid == os.geteuid():
                    found.append(int(entry.name))
    return found


def _kill_processes(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_all() -> None:
    """Ask every QEMU of this process to end, so that whoever waits for it fails at once."""
    for process in list(_live.values()):
        process.signal(signal.SIGTERM)


def kill_all() -> None:
    """Kill every QEMU of this process and remove its directory, now."""
    for process in list(_live.values()):
        process.signal(signal.SIGKILL)
        process._directory.remove()
