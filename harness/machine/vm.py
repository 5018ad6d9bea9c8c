# SPDX-License-Identifier: Apache-2.0
"""One VM from its launch to its guaranteed end."""

import contextlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from harness.deadline import Deadline
from harness.errors import (
    DeadlineError,
    HarnessError,
    LaunchError,
    QemuGoneError,
    QmpError,
    SshError,
)
from harness.host_refusal import refusal_hint
from harness.machine.accel import (
    USUAL_BOOT_SECONDS,
    boot_seconds,
    cpu_model,
    host_khz,
    known_defects,
    user_under,
)
from harness.machine.boot import BootWatch, check_cancelled
from harness.machine.command import BALLOON_PATH, qemu_command
from harness.machine.confirm import confirm_accelerator, forwarded_port
from harness.machine.console import ConsoleWatcher
from harness.machine.end_watch import EndWatch
from harness.machine.host_pressure import MemoryGroup, own_group
from harness.machine.huge_pages import check_huge_pages, launcher
from harness.machine.interposer import check_preloaded
from harness.machine.keys import RunKeys
from harness.machine.pace import guest_slowness, slowness
from harness.machine.process import QemuProcess, RuntimeDirectory
from harness.machine.qemu_files import CONSOLE_LOG, DISCARD_LOG, QemuFiles, not_written
from harness.machine.qmp import QmpMonitor
from harness.machine.reset import Restart, restart_machine
from harness.machine.spec import Launch, unwatched
from harness.machine.ssh import SshShell
from harness.machine.ssh_login import ssh_command
from harness.machine.uname import ANSWER_BYTES, parse_release

CONNECT_SECONDS = 20.0
ORDER_SECONDS = 3.0
RACING_LOGINS = 3
"""Attempts to log in under the virtual clock: the 300 s that dropbear gives a client (AUTH_TIMEOUT,
default_options.h) are over in a second if the host makes an idle guest wait that long."""
LOG = logging.getLogger(__name__)


class VirtualMachine:
    """A ready guest; leaving its `with` block always ends it."""

    balloon_path = BALLOON_PATH
    memory_group: MemoryGroup | None
    """QEMU's own control group, if the spec asks for pressure or a limit and the host allows it."""

    def __init__(self, given: Launch, accel: Literal["kvm", "tcg"]) -> None:
        self.spec = given.spec
        self.accel = accel
        self.qemu_version = given.qemu.version
        found = known_defects(given.qemu, accel)
        self.defects = "; ".join(defect.title for defect in found)
        """Known defects of this QEMU that may crash guests; empty if there are none."""
        self.kernel_release = ""
        self.boot_seconds = 0.0
        self.pace = slowness()
        """How many times longer than usual whatever is asked of it may take, as measured."""
        self.console_log = given.artefacts / CONSOLE_LOG
        self.discard_log = given.artefacts / DISCARD_LOG
        self.qemu_log = given.artefacts / "qemu.log"
        self.untraced = given.qemu.untraced
        """Why this QEMU's discards cannot be traced; empty if they are."""
        self.memory_group = None
        self.no_memory_group = ""
        """Why QEMU has no control group of its own."""
        self._given = given
        self._cancelled = given.cancelled
        self._began = time.monotonic()
        self._end = contextlib.ExitStack()
        ram_files = self.spec.memory if self.spec.backend.startswith("file-") else 0
        user, root_for_kvm = user_under(given.qemu.user, accel, locks=given.spec.mem_lock)
        self._runtime = RuntimeDirectory(ram_files, user)
        self._end.callback(self._runtime.remove)
        self.as_root = root_for_kvm or self._runtime.as_root
        """Why this QEMU runs as root, though it could run as another user; empty if it does not."""
        self._process: QemuProcess | None = None
        self._watch = EndWatch(given.spec, self._runtime.qemu)

    @classmethod
    def boot(cls, given: Launch, accel: Literal["kvm", "tcg"]) -> Self:
        """Launch and wait until ready; on any failure nothing is left running.

        Raises `LaunchError`, `BootError`, `InterruptedRunError`.
        """
        vm = cls(given, accel)
        try:
            vm._launch()
            with given.while_booting(vm):
                vm._become_ready()
        except QemuGoneError as error:
            vm.end()
            raise LaunchError(error.message, hint=error.hint, evidence=error.evidence) from error
        except BaseException:
            vm.end()
            raise
        return vm

    # --- launching ------------------------------------------------------------------------------

    def _launch(self) -> None:
        self._check_cancelled()
        given, socket = self._given, self._runtime.qemu / "qmp.sock"
        self._keys = given.keys or RunKeys.generate()
        try:
            self._files = QemuFiles(given, self._runtime, self._keys)
        except OSError as error:
            raise not_written(error, self._runtime.path, given.artefacts) from error
        self._end.callback(self._files.close)
        self.argv = qemu_command(
            self.spec,
            self._files.launch,
            accel=self.accel,
            cpu=cpu_model(self.accel, given.qemu),
            name=self._runtime.vm_id,
            incoming=given.start == "incoming",
            tsc_khz=host_khz(),
        )
        try:
            self.monitor = QmpMonitor(socket, given.artefacts / "qmp.log", self._gone)
            self._end.callback(self.monitor.close)
            if self._runtime.user is not None:
                self._runtime.user.own(socket, 0o600)
        except OSError as error:
            raise LaunchError(
                f"cannot open QEMU's monitor: {error}", hint=refusal_hint(error)
            ) from error
        self._end.callback(self._leave_memory_group)
        # Check again: a request to stop ends only QEMUs that already run.
        self._check_cancelled()
        self.console = ConsoleWatcher(self.console_log, self._gone)
        self._process = QemuProcess(
            self.argv,
            self._runtime,
            self.qemu_log,
            self._files.environment,
            self._files.descriptors,
            launcher(self.spec.thp),
        )
        self._end.callback(self._process.end, lambda: self.monitor.execute("quit", timeout=2.0))
        self._watch.watch(self._process, self.monitor, self.console, lambda: self.memory_group)
        self.monitor.accept(Deadline(CONNECT_SECONDS * self.pace, "QEMU to open its monitor"))
        confirm_accelerator(self.monitor, self.accel)
        check_preloaded(self.pid, self._files.environment)
        check_huge_pages(self.pid, self.spec.thp)
        if self.spec.under_pressure or self.spec.memory_limit:
            limit = self.spec.memory_limit
            found = own_group(self._runtime.vm_id, self.pid, needed=limit > 0)
            self.memory_group, self.no_memory_group = found
            if self.memory_group is not None and limit:
                self.memory_group.limit(limit)
        if self.spec.balloon.statistics:
            path = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval"}
            self.monitor.execute("qom-set", {**path, "value": 1})
        if given.start == "boot":
            self.monitor.execute("cont")

    def _leave_memory_group(self) -> None:
        if self.memory_group is not None:
            self.memory_group.remove()

    # --- becoming ready -------------------------------------------------------------------------

    def _become_ready(self) -> None:
        seconds = self._given.boot_deadline or boot_seconds(self.accel)
        deadline = Deadline(seconds, f"the guest to become ready under {self.accel}")
        given = (self.accel, self.console, self.monitor, self._gone, self._cancelled, self.defects)
        watch = BootWatch(*given, self.pid)
        try:
            watch.until_ready(deadline)
            self._connect(deadline)
        except (DeadlineError, SshError, QemuGoneError) as error:
            raise watch.explain(error) from error
        self.boot_seconds = time.monotonic() - self._began
        pace = guest_slowness(self.boot_seconds, USUAL_BOOT_SECONDS[self.accel])
        self.pace = self.monitor.pace = self.shell.pace = pace
        words = "the guest is ready under %s after %.1f s (deadlines %.1f times as long): Linux %s"
        LOG.info(words, self.accel, self.boot_seconds, self.pace, self.kernel_release)

    def _connect(self, deadline: Deadline) -> None:
        self._port = forwarded_port(self.monitor)
        logins = RACING_LOGINS if self.spec.clock == "virtual" else 1
        self.shell = SshShell(self._port, self._keys, self._gone, deadline, logins=logins)
        self._end.callback(self.shell.close)
        left = max(1.0, deadline.remaining)
        answer = self.shell.run("uname -r", timeout=left, limit=ANSWER_BYTES)
        self.kernel_release = parse_release(answer.stdout)

    # --- leaving and coming back -----------------------------------------------------------------

    def twin(self, start: Literal["incoming", "stopped"]) -> "VirtualMachine":
        """Start a second QEMU for this guest, which waits for a migration or is stopped.

        It ends with this one at the latest. Raises `LaunchError`.
        """
        artefacts = self._given.artefacts / "destination"
        artefacts.mkdir(exist_ok=True)
        disk = self._files.launch.disk
        given = replace(self._given, artefacts=artefacts, keys=self._keys, start=start, disk=disk)
        twin = VirtualMachine(given, self.accel)
        self._end.callback(twin.end)
        twin._launch()
        twin.pace = twin.monitor.pace = self.pace
        return twin

    def another(self, number: int) -> "VirtualMachine":
        """Boot a further guest like this one, which ends with it at the latest.

        Raises what `launch` raises.
        """
        artefacts = self._given.artefacts / f"guest-{number}"
        artefacts.mkdir(exist_ok=True)
        given = replace(self._given, artefacts=artefacts, disk=None, while_booting=unwatched)
        other = VirtualMachine.boot(given, self.accel)
        self._end.callback(other.end)
        return other

    def restart(self, deadline: Deadline, how: Restart) -> None:
        """Restart the machine, and log in to the guest that boots again.

        Raises `QmpError`, `SshError`, `DeadlineError`, and QEMU's end.
        """

        def order() -> None:
            # A guest that goes at once does not answer any more.
            with contextlib.suppress(SshError, DeadlineError):
                self.shell.run(how.command, timeout=ORDER_SECONDS)

        restart_machine(self.monitor, self.console, self.sleep_alive, deadline, how, order)
        self.shell.close()
        self._connect(deadline)

    def arrive(self, deadline: Deadline) -> None:
        """Log in to a guest that continues in this QEMU. Raises `SshError`, `DeadlineError`."""
        self._connect(deadline)
        self.shell.pace = self.pace

    # --- while it runs --------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process is not None and self._process.alive

    @property
    def unconfined(self) -> str:
        """What this QEMU's seccomp filter cannot deny, and why it runs as root; empty: neither."""
        qemu = self._given.qemu
        return replace(qemu, as_root=self.as_root or qemu.as_root).unconfined

    @property
    def directory(self) -> Path:
        """The VM's own directory, with its keys."""
        return self._runtime.path

    @property
    def qemu_directory(self) -> Path:
        """Where QEMU may make sockets and files, in `directory`."""
        return self._runtime.qemu

    @property
    def boot_files(self) -> tuple[Path, Path]:
        """The kernel, and the initramfs with this run's keys."""
        return self._files.launch.kernel, self._files.launch.initramfs

    @property
    def ssh_argv(self) -> list[str]:
        """The ssh(1) command that logs in to this guest, whose host key it checks."""
        return ssh_command(self.directory, self._runtime.vm_id, self._port)

    def argv_by_hand(self) -> list[str]:
        """Return the command that boots the same guest on a terminal, without SSH keys."""
        return self._files.argv_by_hand(self.accel)

    def sleep_alive(self, seconds: float) -> None:
        """Sleep; raises at once if QEMU ends (`QemuGoneError`) or the run is to stop.

        Raises `InterruptedRunError` in the latter case, and `GuestError` if the guest floods its
        console.
        """
        deadline = Deadline(seconds, "time to pass")
        while True:
            self._check_cancelled()
            if gone := self._gone():
                raise gone
            if deadline.passed:
                return
            self._cancelled.wait(min(0.2, deadline.remaining))

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds of the guest's clock pass. Raises like `sleep_alive`, and `SshError`,
        `DeadlineError`.
        """
        if self.spec.clock == "real":
            self.sleep_alive(seconds)
        else:
            self._check_cancelled()
            self.shell.run(f"sleep {seconds:g}", timeout=seconds + ORDER_SECONDS)

    def _check_cancelled(self) -> None:
        check_cancelled(self._cancelled)

    def _gone(self) -> HarnessError | None:
        """Return why the guest cannot be used: QEMU has ended, or the console overflowed."""
        gone = self._watch.gone()
        return gone or (self.console.overflow() if self._process is not None else None)

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """End QEMU and remove the VM's directory. Raises `LaunchError` if QEMU does not end."""
        with contextlib.suppress(QmpError):
            self._end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
