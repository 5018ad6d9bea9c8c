# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness replay DIR`: repeat a recorded guest, under a debugger if asked."""

import argparse
import socket
import sys
import threading
from pathlib import Path

from harness.cli.shell_command import stopping_guests
from harness.errors import PreconditionError, RecordError, UsageError
from harness.image.qemu_definition import load_qemus
from harness.machine.needs import missing_in_qemu
from harness.machine.qemu_files import CONSOLE_LOG
from harness.machine.recording import read_recording
from harness.machine.replaying import Replay
from harness.regular_file import open_regular
from harness.run.invocation import FAILED
from harness.run.qemus import choose_one_qemu, prepare_qemu
from harness.safe_text import safe_text
from harness.scenario.permission import refuse_qemu_args
from harness.units import MIB

MOST_CONSOLE_BYTES = 64 * MIB


def replay_recording(options: argparse.Namespace) -> int:
    """Replay the guest of a run's directory; 0 if its console says what it said then, else 1.

    With a debugger, 0 when it has ended. Raises `UsageError`, `RecordError`, `PreconditionError`,
    `LaunchError`, `QmpError`, `QemuGoneError`, `InterruptedRunError`.
    """
    _refuse_options(options)
    if options.gdb is not None:
        _check_port(options.gdb)
    run: Path = options.bundle
    machine, told = read_recording(run), _console(run)
    refuse_qemu_args(str(run), machine.spec.qemu_args, allowed=options.allow_qemu_args)
    qemu = prepare_qemu(choose_one_qemu(load_qemus(), options.qemu or []), _tell)
    if lacking := missing_in_qemu(machine.spec, qemu):
        raise PreconditionError(
            lacking, hint=f"choose the QEMU that recorded it, {machine.qemu}, with --qemu"
        )
    if qemu.version != machine.qemu:
        _tell(
            f"recorded by QEMU {machine.qemu}, and this is {qemu.version}: they may count "
            "differently (--qemu chooses another)"
        )
    with stopping_guests() as cancelled, Replay(run, machine, qemu, options.gdb) as replay:
        if options.gdb is not None:
            return _under_gdb(replay, options.gdb, cancelled)
        differs = replay.follow(told, cancelled, _tell)
    size = f"{len(told):,} bytes"
    if differs is None:
        print(f"the same guest: its console says the same again ({size})")
        return 0
    line = told[:differs].count(b"\n") + 1
    print(f"another guest: its console differs from line {line} of {run / CONSOLE_LOG} on")
    return FAILED


def _refuse_options(options: argparse.Namespace) -> None:
    """Raise `UsageError` for what a recording leaves no choice of."""
    given = [
        f"--{name}"
        for name in ("kernel", "modules", "results")
        if getattr(options, name) is not None
    ]
    given += ["--accel kvm"] if options.accel == "kvm" else []
    if given:
        raise UsageError(
            f"{given[0]}: a recorded guest is repeated as it was, under TCG and into no results",
            hint="leave the option out, or run the scenario again with it",
        )


def _check_port(port: int) -> None:
    """Raise `UsageError` if nobody can listen there."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--gdb {port}: {error.strerror if isinstance(error, OSError) else error}",
            hint="choose a free TCP port from 1024 to 65535",
        ) from error


def _under_gdb(replay: Replay, port: int, cancelled: threading.Event) -> int:
    _tell(
        "the guest is stopped before its first instruction; in another terminal:\n"
        "  gdb VMLINUX -ex 'set architecture i386:x86-64' "
        f"-ex 'target remote 127.0.0.1:{port}'\n"
        "VMLINUX is the kernel with its symbols (linux-image-...-dbg); it runs where it was "
        "linked.\n"
        "break with hbreak; reverse-continue and reverse-stepi go backwards; Ctrl-C ends the guest"
    )
    replay.wait(cancelled)
    return 0


def _console(run: Path) -> bytes:
    try:
        with open_regular(run / CONSOLE_LOG) as file:
            told = file.read(MOST_CONSOLE_BYTES)
    except OSError as error:
        raise RecordError(f"cannot read {run / CONSOLE_LOG}: {error}") from error
    if not told:
        raise RecordError(
            f"{run / CONSOLE_LOG} is empty: there is nothing to compare a replay with",
            hint="copy it again from where it was recorded",
        )
    return told


def _tell(text: str) -> None:
    print(safe_text(text), file=sys.stderr, flush=True)
