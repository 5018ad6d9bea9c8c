# SPDX-License-Identifier: Apache-2.0
"""The files that one QEMU reads and writes, whichever user it runs as.

Another user than root can often pass neither root's directory of results nor its cache. It gets
copies of what it reads, in the VM's own directory, and its logs as open descriptors: a file that is
opened again through /proc/self/fd is looked up by no path (proc(5)).
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from harness.errors import LaunchError
from harness.host_refusal import refusal_hint
from harness.machine.accel import cpu_model, host_khz
from harness.machine.command import LaunchFiles, command_by_hand, record_log
from harness.machine.interposer import LIBRARY, discard_environment
from harness.machine.keys import RunKeys, write_keyed_initramfs
from harness.machine.process import RuntimeDirectory
from harness.machine.qemu_user import QemuUser
from harness.machine.reached_program import reached_program
from harness.machine.recording import Machine, write_recording
from harness.machine.spec import Launch
from harness.machine.ssh_login import write_ssh_files

LOG = logging.getLogger(__name__)
CONSOLE_LOG, DISCARD_LOG, DISK = "console.log", "discards.log", "disk"


def not_written(error: OSError, own: Path, artefacts: Path) -> LaunchError:
    """Say which files could not be written; `own`: the VM's directory, `artefacts`: the run's.

    A write(2) that a full file system refuses names no file.
    """
    hint = refusal_hint(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return LaunchError(f"cannot write the VM's files: {error}", hint=hint)
    room = {path: shutil.disk_usage(path).free for path in (own, artefacts) if path.exists()}
    full = min(room, key=room.__getitem__, default=own)
    other = "choose another with --results DIR" if full == artefacts else "set TMPDIR to another"
    return LaunchError(
        f"cannot write the VM's files: {error}, in {full}",
        hint=f"{hint} of that directory, or {other}",
    )


class QemuFiles:
    """The files of one launch, made by the constructor; `close` them when QEMU has ended."""

    def __init__(self, given: Launch, runtime: RuntimeDirectory, keys: RunKeys) -> None:
        """Raises `OSError`, `ImageError`."""
        self._given, self._user = given, runtime.user
        self._logs: dict[Path, int] = {}
        self._reach: tuple[int, ...] = ()
        self._end = contextlib.ExitStack()
        boot, directory = given.boot, runtime.path
        given.artefacts.mkdir(parents=True, exist_ok=True)
        # An attempt with another accelerator may have left these files.
        for name in (CONSOLE_LOG, DISCARD_LOG):
            (given.artefacts / name).unlink(missing_ok=True)
        kernel, initramfs = boot.kernel, directory / "initramfs"
        write_keyed_initramfs(boot.initramfs, keys, initramfs, boot.more)
        write_ssh_files(directory, keys, runtime.vm_id)
        disk = given.disk or runtime.qemu / DISK
        if given.spec.disk and given.disk is None:
            with disk.open("wb") as file:
                file.truncate(given.spec.disk)
        self._by_hand: Mapping[str, str] = discard_environment(given.spec.discard, directory)
        """What the environment adds for a QEMU that this process's user starts by hand."""
        self.environment = dict(self._by_hand)
        """What the environment adds for this QEMU."""
        if self._user is not None:
            kernel = directory / "kernel"
            shutil.copyfile(boot.kernel, kernel)
            if "LD_PRELOAD" in self.environment:
                shutil.copyfile(self.environment["LD_PRELOAD"], directory / LIBRARY)
                (directory / LIBRARY).chmod(0o644)
                self.environment["LD_PRELOAD"] = str(directory / LIBRARY)
            for path in (kernel, initramfs, disk):
                if path.exists():
                    self._user.own(path, 0o600)
        self.launch = LaunchFiles(
            qemu=given.qemu.path,
            kernel=kernel,
            initramfs=initramfs,
            runtime=runtime.qemu,
            disk=disk,
            console_log=given.artefacts / CONSOLE_LOG,
            discard_log=given.artefacts / DISCARD_LOG,
            discard_event=given.qemu.discard_event,
            denied=given.qemu.denied,
        )
        if self._user is not None:
            try:
                program = reached_program(self._user, given.qemu.path)
                path, self._reach = self._end.enter_context(program)
                self.launch = replace(self.launch, qemu=path)
                self._give_logs(self._user)
            except OSError:
                self.close()
                raise

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What QEMU must be started with."""
        return (*self._reach, *self._logs.values())

    def argv_by_hand(self, accel: Literal["kvm", "tcg"]) -> list[str]:
        """Return the command that boots the same guest on a terminal, without SSH keys."""
        given = self._given
        files = replace(
            self.launch,
            qemu=given.qemu.path,
            kernel=given.boot.kernel,
            initramfs=given.boot.initramfs,
            runtime=Path(),
            disk=Path(DISK),
        )
        cpu = cpu_model(accel, given.qemu)
        words = [f"{name}={value}" for name, value in self._by_hand.items()]
        command = command_by_hand(given.spec, files, accel=accel, cpu=cpu, tsc_khz=host_khz())
        return ["env", *words, *command] if words else command

    def _give_logs(self, user: QemuUser) -> None:
        """Make the logs the user's, to be opened by their descriptors."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        paths = self.launch.console_log, self.launch.discard_log
        for path in paths:
            self._logs[path] = os.open(path, flags, 0o644)
            os.fchown(self._logs[path], user.uid, user.gid)
        console, discards = (Path(f"/proc/self/fd/{self._logs[path]}") for path in paths)
        self.launch = replace(self.launch, console_log=console, discard_log=discards)

    def _keep_recording(self) -> None:
        files, run = self.launch, self._given.artefacts
        machine = Machine(self._given.spec, self._given.qemu.version)
        paths = {"kernel": files.kernel, "initrd": files.initramfs}
        try:
            write_recording(run, machine, log=record_log(files), **paths)
        except OSError as error:
            LOG.warning("cannot keep the recording of the guest: %s", error)

    def close(self) -> None:
        """Take the logs back from QEMU's user, and keep what it has recorded."""
        if self._given.spec.rr == "record" and record_log(self.launch).exists():
            self._keep_recording()
        for descriptor in self._logs.values():
            with contextlib.suppress(OSError):
                os.fchown(descriptor, os.geteuid(), os.getegid())
            os.close(descriptor)
        self._logs.clear()
        self._end.close()
