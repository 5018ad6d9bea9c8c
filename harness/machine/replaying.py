# SPDX-License-Identifier: Apache-2.0
"""Replay a recorded guest, and compare what it says on its console with what it said then."""

import contextlib
import shutil
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import InterruptedRunError, LaunchError, QemuGoneError
from harness.host_refusal import refusal_hint
from harness.machine.accel import cpu_model, user_under
from harness.machine.command import LaunchFiles, qemu_command, record_log
from harness.machine.pace import slowness
from harness.machine.process import QemuProcess, RuntimeDirectory
from harness.machine.qemu import Qemu
from harness.machine.qmp import QmpMonitor
from harness.machine.reached_program import reached_program
from harness.machine.recording import INITRAMFS, KERNEL, LOG, RECORDING, Machine
from harness.units import MIB

CONNECT_SECONDS = 20.0
SAVE_SECONDS = 30.0
LOOK_SECONDS = 0.5
SHOW_SECONDS = 5.0
STALL_SECONDS = 60.0
"""Without a further instruction, on a machine of usual pace."""

SNAPSHOTS = "snapshots.qcow2"
_CLUSTER_BITS = 16


class Replay(Closing):
    """A QEMU that replays a guest, stopped before its first instruction until `follow`."""

    def __init__(self, run: Path, machine: Machine, qemu: Qemu, gdb: int | None = None) -> None:
        """Start it, with a server for gdb at this TCP port of the loopback address.

        Raises `LaunchError`, `QmpError`, `QemuGoneError`.
        """
        self._end = contextlib.ExitStack()
        self._given = machine
        self.instructions = 0
        """Executed so far."""
        try:
            self._start(run / RECORDING, qemu, gdb)
        except OSError as error:
            self.close()
            raise LaunchError(
                f"cannot start the replay: {error}", hint=refusal_hint(error)
            ) from error
        except BaseException:
            self.close()
            raise

    def _start(self, recording: Path, qemu: Qemu, gdb: int | None) -> None:
        spec = self._given.spec
        user, _as_root = user_under(qemu.user, "tcg", locks=spec.mem_lock)
        runtime = RuntimeDirectory(spec.memory if spec.backend.startswith("file-") else 0, user)
        self._end.callback(runtime.remove)
        program = reached_program(runtime.user, qemu.path)
        path, descriptors = self._end.enter_context(program)
        files = LaunchFiles(
            qemu=path,
            kernel=runtime.path / KERNEL,
            initramfs=runtime.path / INITRAMFS,
            runtime=runtime.qemu,
            disk=runtime.qemu / "disk",
            console_log=runtime.qemu / "console.log",
            discard_log=runtime.qemu / "discards.log",
            discard_event=qemu.discard_event,
            denied=qemu.denied,
        )
        self._console, snapshots = files.console_log, runtime.qemu / SNAPSHOTS
        shutil.copyfile(recording / KERNEL, files.kernel)
        shutil.copyfile(recording / INITRAMFS, files.initramfs)
        shutil.copyfile(recording / LOG, record_log(files))
        snapshots.write_bytes(empty_qcow2(MIB))
        if runtime.user is not None:
            for made in (files.kernel, files.initramfs, record_log(files), snapshots):
                runtime.user.own(made, 0o600)
        cpu = cpu_model("tcg", qemu)
        command = qemu_command(spec, files, accel="tcg", cpu=cpu, name=runtime.vm_id)
        if gdb is not None:
            drive = f"file={snapshots},if=none,id=snapshots,format=qcow2"
            command += ["-drive", drive, "-gdb", f"tcp:127.0.0.1:{gdb}"]
        socket = runtime.qemu / "qmp.sock"
        self._monitor = QmpMonitor(socket, runtime.path / "qmp.log", self._gone)
        self._end.callback(self._monitor.close)
        if runtime.user is not None:
            runtime.user.own(socket, 0o600)
        self._process = QemuProcess(command, runtime, runtime.path / "qemu.log", {}, descriptors)
        ask = partial(self._monitor.execute, "quit", timeout=2.0)
        self._end.callback(self._process.end, ask)
        self._monitor.accept(Deadline(CONNECT_SECONDS * slowness(), "QEMU to open its monitor"))
        if gdb is not None:
            # To go backwards, QEMU goes back to a snapshot, and forwards from there.
            refused = self._monitor.human("savevm start", timeout=SAVE_SECONDS).strip()
            if refused:
                raise LaunchError(f"QEMU makes no snapshot to go back to: {refused}")

    def follow(
        self, told: bytes, cancelled: threading.Event, progress: Callable[[str], None]
    ) -> int | None:
        """Replay to the end; returns where the console first differs from `told`, None if nowhere.

        Raises `InterruptedRunError`, and `LaunchError` if QEMU refuses the recording or stalls.
        """
        self._monitor.execute("cont")
        began = moved = shown = time.monotonic()
        while self._process.alive:
            if cancelled.wait(LOOK_SECONDS):
                raise InterruptedRunError("the replay was asked to stop")
            if (differs := self._differs(told, whole=False)) is not None:
                return differs
            before, now = self.instructions, time.monotonic()
            with contextlib.suppress(QemuGoneError):
                self.instructions = self._monitor.execute("query-replay")["icount"]
            if self.instructions != before:
                moved = now
            elif now - moved > STALL_SECONDS * slowness():
                raise self._stalled()
            if now - shown >= SHOW_SECONDS:
                shown = now
                said = f"{self._said():,} of {len(told):,} bytes on the console"
                done = f"{self.instructions / 1e6:,.0f} million instructions, {said}"
                progress(f"{now - began:7.1f}s  {done}")
        if cancelled.is_set():
            raise InterruptedRunError("the replay was asked to stop")
        if self._process.status:
            raise self._broke()
        return self._differs(told, whole=True)

    def _said(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._console.stat().st_size
        return 0

    def wait(self, cancelled: threading.Event) -> None:
        """Wait until the debugger ends it, or somebody stops it. Raises `LaunchError`."""
        while self._process.alive and not cancelled.wait(LOOK_SECONDS):
            pass
        if self._process.status and not cancelled.is_set():
            raise self._broke()

    def _differs(self, told: bytes, *, whole: bool) -> int | None:
        try:
            said = self._console.read_bytes()
        except FileNotFoundError:
            said = b""
        shorter = min(len(told), len(said))
        if said[:shorter] != told[:shorter]:
            return next(at for at in range(shorter) if said[at] != told[at])
        return shorter if whole and len(said) != len(told) else None

    def _gone(self) -> QemuGoneError | None:
        if self._process.alive:
            return None
        words = self._process.last_words()
        return QemuGoneError(f"QEMU does not replay this: {words}", hint=self._hint())

    def _broke(self) -> LaunchError:
        return LaunchError(
            f"QEMU ended in the middle of the replay ({self._process.status}): "
            f"{self._process.last_words()}",
            hint=self._hint(),
        )

    def _stalled(self) -> LaunchError:
        return LaunchError(
            f"the replay stands still at instruction {self.instructions:,}: the guest does not do "
            "what it did when it was recorded",
            hint=self._hint(),
        )

    def _hint(self) -> str:
        return (
            f"it was recorded by QEMU {self._given.qemu} and fpr-harness {self._given.harness}: "
            "replay it with the same ones"
        )

    def close(self) -> None:
        """End QEMU, and remove its files."""
        self._end.close()


def empty_qcow2(size: int) -> bytes:
    """Make an empty disk for snapshots, of `size` bytes, at most 512 MiB (docs/interop/qcow2.txt).

    One cluster each for the header, the table of reference counts, these counts, and the table of
    the disk's clusters.
    """
    cluster = 1 << _CLUSTER_BITS
    header = struct.pack(
        *(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, _CLUSTER_BITS, size, 0),
        *(1, 3 * cluster, cluster, 1, 0, 0),
    )
    counts = struct.pack(">4H", 1, 1, 1, 1)
    parts = (header, struct.pack(">Q", 2 * cluster), counts, b"")
    return b"".join(part.ljust(cluster, b"\0") for part in parts)
