# SPDX-License-Identifier: Apache-2.0
"""Run QEMU in its own process group and directory, and make sure that it ends.

The kernel kills QEMU when the *thread* that started it ends (`PR_SET_PDEATHSIG`, prctl(2)), so
even a killed harness leaves no QEMU. One thread must therefore start the VM and use it.
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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError, LaunchError
from harness.host_refusal import refusal_hint
from harness.machine.owned import Ownership, is_abandoned
from harness.machine.qemu_user import QemuUser
from harness.units import format_size

LOG = logging.getLogger(__name__)

QUIT_SECONDS = 5.0
TERM_SECONDS = 5.0
KILL_SECONDS = 10.0
REMOVE_SECONDS = 60.0

QEMU_DIRECTORY = "qemu"
"""In a VM's directory, for what QEMU makes."""

LONGEST_SOCKET = f"{QEMU_DIRECTORY}/debug.sock"
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket: 108 bytes of `sun_path` less the final zero (unix(7))."""

_LOG_PREFIX = re.compile(r"^(?:\d{4}-\d\d-\d\dT\S+Z )?(?:qemu-system-x86_64: )?")
"""Prefix of QEMU's messages: the time of `-msg timestamp=on`, and its name."""

_live: dict[str, "QemuProcess"] = {}
"""Running QEMUs by VM id, for `stop_all` and `kill_all`. It is changed only by atomic operations,
so that a signal handler may read it without a lock."""


class RuntimeDirectory:
    """A directory for one VM's keys, with one in it for QEMU's sockets and RAM files.

    Nobody else may enter either, but that a QEMU that runs as another user passes the outer one,
    and owns the inner one. They are made in `$XDG_RUNTIME_DIR`, or in the directory for temporary
    files if the former is not usable or, as it is usually a small tmpfs, has no room for
    `ram_files` bytes. There is no directory with a known name in between, because another user
    could create that first.
    """

    def __init__(self, ram_files: int = 0, user: QemuUser | None = None) -> None:
        """Raises `LaunchError`."""
        self.vm_id = f"fpr-{uuid.uuid4().hex[:12]}"
        self.user = user
        """Whom QEMU runs as; None: as this process."""
        self.as_root = ""
        """Why it is not the user that was given; empty if it is."""
        refused = self._make_somewhere(ram_files)
        if refused and user is not None:
            self.user = None
            why, refused = "; ".join(refused), self._make_somewhere(ram_files)
            if not refused:
                self._be_root(user, why)
        if refused:
            raise LaunchError(
                f"cannot make a directory for the VM ({'; '.join(refused)})",
                hint="set TMPDIR to a directory that you own, with a short path and enough room",
            )

    def _be_root(self, user: QemuUser, why: str) -> None:
        try:
            self.as_root = user.refused(why)
        except LaunchError:
            self.remove()
            raise

    @property
    def qemu(self) -> Path:
        """The directory in which QEMU makes sockets and files."""
        return self.path / QEMU_DIRECTORY

    @property
    def uids(self) -> frozenset[int]:
        """The users that processes of this VM may have."""
        return frozenset({os.geteuid()} | ({self.user.uid} if self.user is not None else set()))

    def _make_somewhere(self, ram_files: int) -> list[str]:
        """Return an empty list, or why no base is usable."""
        refused = []
        for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
            if base:
                self.path = Path(base) / self.vm_id
                try:
                    self._make(ram_files)
                except OSError as error:
                    refused.append(f"{base}: {error.strerror or error}")
                else:
                    return []
        return refused

    def _make(self, ram_files: int) -> None:
        base = self.path.parent
        if len(os.fsencode(self.path / LONGEST_SOCKET)) > SOCKET_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the path is too long for a socket")
        if ram_files and shutil.disk_usage(base).free < ram_files:
            raise OSError(errno.ENOSPC, f"no room for {format_size(ram_files)} of guest memory")
        if self.user is not None and not self.user.reaches(base):
            raise OSError(errno.EACCES, f"{self.user.name} may not enter it")
        _sweep(base)
        self.path.mkdir(mode=0o700)
        try:
            self._ownership = Ownership.claim(self.path)
        except OSError:
            # Nobody owns it, so that no sweep would ever remove it.
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        try:
            self.qemu.mkdir(mode=0o700)
            if self.user is not None:
                self.user.own(self.qemu, 0o700)
                os.chown(self.path, -1, self.user.gid)
                self.path.chmod(0o710)
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the directory with its contents, once."""
        _remove(self.path)
        self._ownership.release()


def _sweep(base: Path) -> None:
    """Kill QEMUs and remove directories that a killed harness of this user has left."""
    for directory in base.glob("fpr-" + "[0-9a-f]" * 12):
        if is_abandoned(directory):
            # The harness may have died before setpriv requested the death signal.
            _kill_processes(processes_of(directory.name, _uids(directory)))
            _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory with whatever a QEMU may have made in it; never raises.

    shutil.rmtree() calls itself for each level and keeps all of them open, so that it gives up some
    levels down; rm(1) does not.
    """
    with contextlib.suppress(RecursionError):
        shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        command = ["rm", "-rf", "--", str(directory)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, check=False, capture_output=True, timeout=REMOVE_SECONDS)


def _uids(directory: Path) -> frozenset[int]:
    """Return the users that processes of the VM with this directory, of this user, may have."""
    uids = {os.geteuid()}
    with contextlib.suppress(OSError):
        uids.add((directory / QEMU_DIRECTORY).lstat().st_uid)
    return frozenset(uids)


class QemuProcess:
    """A running QEMU, started by the constructor; end it with `end`."""

    def __init__(
        self,
        argv: Sequence[str],
        directory: RuntimeDirectory,
        log: Path,
        environment: Mapping[str, str],
        descriptors: Collection[int] = (),
        launcher: Sequence[str] = (),
    ) -> None:
        """Start QEMU as the directory's user, with `environment` added to this process's, and with
        these descriptors. Raises `LaunchError`.

        `launcher`: a command that executes, as this process's user, the one appended to it.
        """
        self.argv = list(argv)
        self.log = log
        self._directory = directory
        # setpriv (util-linux) sets the death signal after it has become the user, which clears it,
        # and executes QEMU; a preexec_fn would not be safe in a process with threads.
        user = directory.user.words if directory.user is not None else ()
        command = [*launcher, "setpriv", "--pdeathsig", "KILL", *user, "--", *self.argv]
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
                    pass_fds=tuple(descriptors),
                )
        except OSError as error:
            raise LaunchError(f"cannot start QEMU: {error}", hint=refusal_hint(error)) from error
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
        """Exit status, negative for a signal (subprocess.Popen); None while QEMU runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """Return the last lines of QEMU's log, joined into one."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = (_LOG_PREFIX.sub("", line).strip() for line in text.splitlines()[-3:])
        return " / ".join(line for line in lines if line)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to QEMU's process group, unless QEMU has ended."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self, ask: Callable[[], None] | None) -> None:
        """End QEMU by `ask` (QMP quit), SIGTERM and SIGKILL, each with its deadline.

        Raises `LaunchError` only if even SIGKILL does not end it, because it hangs in the host's
        kernel.
        """
        try:
            if ask is not None and self.alive:
                with contextlib.suppress(HarnessError):
                    ask()
                    self._wait(QUIT_SECONDS)
            if self.alive:
                LOG.debug("QEMU did not quit when asked: SIGTERM")
                # A stopped process (SIGSTOP) does not act on SIGTERM.
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGTERM)
                with contextlib.suppress(DeadlineError):
                    self._wait(TERM_SECONDS)
        finally:
            # Also if a wait above was interrupted.
            self._kill()
            LOG.debug("QEMU has ended: status %s", self._process.returncode)

    def _kill(self) -> None:
        if self.alive:
            LOG.debug("QEMU still runs: SIGKILL")
        self.signal(signal.SIGKILL)
        _kill_processes(pid for pid in self._family() if pid != self.pid)
        try:
            self._wait(KILL_SECONDS)
            wait_for(
                lambda: None if self._family() else True,
                Deadline(KILL_SECONDS, "QEMU's other processes to end"),
            )
        except DeadlineError as error:
            raise LaunchError(
                f"QEMU (pid {self.pid}) did not end, not even by SIGKILL: {error.message}",
                hint=f"it hangs in the host's kernel: see /proc/{self.pid}/stack and dmesg",
            ) from error
        _live.pop(self._directory.vm_id, None)

    def _family(self) -> list[int]:
        return processes_of(self._directory.vm_id, self._directory.uids)

    def _wait(self, seconds: float) -> None:
        wait_for(
            lambda: None if self.alive else True, Deadline(seconds, "QEMU to end"), interval=0.01
        )


def processes_of(vm_id: str, uids: Collection[int] | None = None) -> list[int]:
    """List the processes of these users, by default of this one, whose command line names this
    VM."""
    users = {os.geteuid()} if uids is None else uids
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if f"guest={vm_id}".encode() in words and entry.stat().st_uid in users:
                    found.append(int(entry.name))
    return found


def _kill_processes(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_all() -> None:
    """Send SIGTERM to every QEMU of this process, so that waits for its guest fail at once."""
    for process in list(_live.values()):
        process.signal(signal.SIGTERM)


def kill_all() -> None:
    """Kill every QEMU of this process and remove its directory."""
    for process in list(_live.values()):
        process.signal(signal.SIGKILL)
        process._directory.remove()
