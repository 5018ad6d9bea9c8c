# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness shell`: open a terminal in a guest, or run one command, through ssh(1)."""

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from pydantic import ValidationError

from harness.cli.options import run_options
from harness.errors import (
    GuestError,
    HarnessError,
    InterruptedRunError,
    LaunchError,
    PreconditionError,
    SshError,
    UsageError,
)
from harness.image.build import BootFiles
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.machine.gone import NOTICE_SECONDS
from harness.machine.launch import launch
from harness.machine.process import kill_all, stop_all
from harness.machine.spec import GuestSpec
from harness.machine.vm import VirtualMachine
from harness.run.invocation import prepare_images
from harness.run.plan import choose_images
from harness.run.qemus import choose_one_qemu, prepare_qemu
from harness.safe_text import safe_text
from harness.scenario.model import Guest
from harness.units import parse_size

LOST_STATUS = 255
"""Status of ssh(1) if the session was lost or a signal ended the command; commands may use it too.
"""

LOOK_SECONDS = 0.2
"""Interval of checks whether the user asked to stop."""

END_SECONDS = 2.0
"""Time for ssh to end once its guest has ended, or once it got SIGTERM."""

CHUNK = 1 << 16


def execute(options: argparse.Namespace) -> int:
    """Open a terminal, or run COMMAND and return its status; the guest ends in any case."""
    spec = guest_spec(options.memory, options.vcpus)
    command = command_line(options.guest_command)
    if command is None and not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        raise UsageError(
            "a shell needs a terminal, but standard input or output is not one",
            hint="give a command to run: fpr-harness shell -- uname -r",
        )
    check_ssh_client()
    qemu = prepare_qemu(choose_one_qemu(load_qemus(), options.qemu), _tell)
    boot = _boot_files(options)
    with artefact_directory() as artefacts, stopping_guests() as cancelled:
        vm = launch(
            spec,
            boot,
            accel=options.accel,
            qemu=qemu.path,
            artefacts=artefacts,
            progress=_tell,
            cancelled=cancelled,
        )
        with vm:
            if command is not None:
                return run_command(vm, command, cancelled)
            _tell(
                f"Linux {vm.kernel_release} under {vm.accel.upper()}, "
                f"ready in {vm.boot_seconds:.1f} s\n"
                "leave with `exit` or Ctrl-D, or with Enter ~ . if it no longer answers\n"
                f"another terminal: {shlex.join(vm.ssh_argv)}"
            )
            give_terminal(vm, cancelled)
    return 0


def guest_spec(memory: str, vcpus: int) -> GuestSpec:
    """Make the guest's specification, checked like a scenario's. Raises `UsageError`."""
    try:
        parse_size(memory)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    try:
        guest = Guest.model_validate({"memory": memory, "vcpus": vcpus})
    except ValidationError as error:
        mistakes = [f"--{mistake['loc'][0]}: {mistake['msg']}" for mistake in error.errors()]
        raise UsageError("\n".join(mistakes)) from error
    return GuestSpec(memory=guest.memory, vcpus=guest.vcpus)


def command_line(words: list[str]) -> str | None:
    """Return the command line for the guest's shell; None without a command.

    A single word is passed unquoted, so that it may be a pipeline; several words are quoted.
    """
    if not words:
        return None
    return words[0] if len(words) == 1 else shlex.join(words)


def check_ssh_client() -> None:
    """Raises `PreconditionError` if there is no ssh(1)."""
    if shutil.which("ssh") is None:
        raise PreconditionError(
            "this host has no ssh client, which `fpr-harness shell` needs",
            hint="install openssh-client",
        )


@contextlib.contextmanager
def artefact_directory() -> Iterator[Path]:
    """Make a directory for a guest's logs, which is kept (and printed) only on an error."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="fpr-harness-"))
    except OSError as error:
        raise LaunchError(
            f"cannot make a directory for the guest's logs: {error.strerror}",
            hint="set TMPDIR to a directory that you own, with enough room",
        ) from error
    keep = False
    try:
        yield directory
    except InterruptedRunError:
        raise
    except HarnessError:
        keep = any(directory.iterdir())
        raise
    finally:
        if keep:
            _tell(f"the guest's logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def stopping_guests() -> Iterator[threading.Event]:
    """While in the block, end the guests on SIGINT, SIGTERM and SIGHUP, and set the event.

    A second signal kills them. Any `HarnessError` after a signal becomes an `InterruptedRunError`.
    """
    cancelled = threading.Event()

    def stop() -> None:
        if cancelled.is_set():
            kill_all()
        cancelled.set()
        stop_all()

    # In a thread, because the handler interrupts the main thread, which may hold the event's lock.
    def handle(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=stop, daemon=True).start()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup(1)
            signal.signal(number, handle)
    try:
        yield cancelled
    except HarnessError as error:
        if cancelled.is_set():
            raise InterruptedRunError("interrupted; the guest has ended") from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(vm: VirtualMachine, command: str, cancelled: threading.Event) -> int:
    """Run a command with this process's standard streams; returns the exit status of ssh(1).

    Raises `GuestError` if the guest crashed or shut down, `SshError`, `InterruptedRunError`, and
    `OSError` if standard output cannot be written.
    """
    with _ssh(vm, ["-T"], [command], stdout=subprocess.PIPE) as ssh:
        output = OutputThread(ssh)
        output.start()
        status = _follow(ssh, cancelled)
        while output.is_alive():  # standard output has a slow reader
            _check(cancelled)
            output.join(LOOK_SECONDS)
    if output.error is not None:
        raise output.error
    if status == LOST_STATUS and (why := why_it_went(vm)):
        raise GuestError(f"`{command}` has no exit status: {why}")
    return status


def give_terminal(vm: VirtualMachine, cancelled: threading.Event) -> None:
    """Connect this terminal to one in the guest until either ends.

    Raises `GuestError` if the guest crashed, `SshError`, `InterruptedRunError`.
    """
    with _ssh(vm, ["-t"], []) as ssh:
        status = _follow(ssh, cancelled)
    if status == LOST_STATUS and (why := why_it_went(vm)):
        _tell(why)


@contextlib.contextmanager
def _ssh(
    vm: VirtualMachine, options: Sequence[str], words: Sequence[str], stdout: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start ssh(1) with this process's standard streams; it has ended at the end of the block."""
    # The descriptor of a stream that the caller closed may belong to another file.
    closed = [
        subprocess.DEVNULL if stream is None else None
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ]
    program, *rest = vm.ssh_argv
    process = subprocess.Popen(
        [program, *options, *rest, *words],
        stdin=closed[0],
        stdout=stdout if closed[1] is None else closed[1],
        stderr=closed[2],
    )
    with process:
        try:
            yield process
        finally:
            # On SIGTERM it restores the terminal.
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _follow(ssh: "subprocess.Popen[bytes]", cancelled: threading.Event) -> int:
    """Wait for ssh to end; returns its status. Raises `InterruptedRunError`, `SshError`."""
    ended = os.pidfd_open(ssh.pid)
    try:
        while not select.select([ended], [], [], LOOK_SECONDS)[0]:
            _check(cancelled)
            # ssh stops on its escape `~^Z`; stop too, or the caller's shell would wait forever.
            if os.waitid(os.P_PID, ssh.pid, os.WSTOPPED | os.WNOHANG):
                os.kill(os.getpid(), signal.SIGSTOP)
                ssh.send_signal(signal.SIGCONT)
    finally:
        os.close(ended)
    status = ssh.wait()
    if status < 0:
        # Ctrl-C reaches ssh at the same time as this process.
        cancelled.wait(NOTICE_SECONDS)
    _check(cancelled)
    if status < 0:
        raise SshError(f"ssh was killed by {signal.Signals(-status).name}")
    return status


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise InterruptedRunError("interrupted")


class OutputThread(threading.Thread):
    """Copies ssh's output to standard output, and ends ssh if that fails.

    By itself, ssh would keep discarding output while the guest's command runs on, since dropbear
    does not learn of it; a local command would get SIGPIPE.
    """

    def __init__(self, ssh: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        self._ssh = ssh
        self.error: OSError | None = None
        """Why standard output could not be written."""

    def run(self) -> None:
        if self._ssh.stdout is None:
            return
        while data := self._ssh.stdout.read1(CHUNK):  # type: ignore[attr-defined]
            try:
                while data:
                    data = data[os.write(1, data) :]
            except OSError as error:
                self.error = error
                self._ssh.terminate()
                return


def why_it_went(vm: VirtualMachine) -> str | None:
    """Return whether the guest shut down or rebooted, after a connection ended; None if neither.

    Raises `GuestError` if the guest crashed.
    """
    crash = next((f for f in vm.console.final_findings() if f.severity == "crash"), None)
    if crash is not None:
        raise GuestError(f"the guest crashed: {crash.title}", hint="see console.log")
    down = [
        event["data"]["reason"] for event in vm.monitor.events() if event["event"] == "SHUTDOWN"
    ]
    return {
        "guest-shutdown": "the guest has shut itself down",
        "guest-reset": "the guest has rebooted, which ends QEMU",
    }.get(down[0] if down else "")


def _boot_files(options: argparse.Namespace) -> BootFiles:
    """Build the one image to boot. Raises `UsageError`, and what building it raises."""
    images = choose_images(load_definitions(), options.image)
    if options.image and len(images) > 1:
        raise UsageError("--image names several images; a shell takes one")
    image = images[0]
    boot = prepare_images([image], run_options(options), _tell)[image.name]
    if isinstance(boot, HarnessError):
        raise boot
    return boot


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; None is one that was closed before Python started."""
    return stream is not None and stream.isatty()


def _tell(text: str) -> None:
    """Print on standard error, since standard output belongs to the guest's command."""
    print(safe_text(text), file=sys.stderr, flush=True)
