# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness shell`: a terminal in a guest, or one command in it, through the host's ssh(1)."""

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
"""ssh(1) exits so when the session was lost or a signal ended the command; so may a command."""

LOOK_SECONDS = 0.2
"""Between looks for a request to stop."""

END_SECONDS = 2.0
"""For ssh to end once its guest has, or once it was told to."""

CHUNK = 1 << 16


def execute(options: argparse.Namespace) -> int:
    """Give a terminal, or run COMMAND and return its status. The guest ends in any case."""
    spec = guest_spec(options.memory, options.vcpus)
    command = command_line(options.guest_command)
    if command is None and not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        raise UsageError(
            "a shell needs a terminal, and this is none",
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
    """The guest asked for, by the rules of a scenario. Raises `UsageError`."""
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
    """What the guest's shell is given: one word as it is, so that it may hold a pipe; several as
    the words they are. None: no command."""
    if not words:
        return None
    return words[0] if len(words) == 1 else shlex.join(words)


def check_ssh_client() -> None:
    """Raises `PreconditionError` if there is no ssh(1)."""
    if shutil.which("ssh") is None:
        raise PreconditionError(
            "no ssh client on this host, and a shell in a guest goes through it",
            hint="install openssh-client",
        )


@contextlib.contextmanager
def artefact_directory() -> Iterator[Path]:
    """A place for a guest's logs; kept, and named, only if something broke."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="fpr-harness-"))
    except OSError as error:
        raise LaunchError(
            f"cannot make a directory for the guest's logs: {error.strerror}",
            hint="set TMPDIR to a directory of yours with room",
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
    """While in the block, SIGINT, SIGTERM and SIGHUP end the guests and set the event.

    A second one kills. Whatever breaks after that is an `InterruptedRunError`.
    """
    cancelled = threading.Event()

    def stop() -> None:
        if cancelled.is_set():
            kill_all()
        cancelled.set()
        stop_all()

    # In a thread: the handler runs in the midst of whatever the main thread does, and that may
    # hold the event's own lock.
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
    """Run a command with this process's standard streams; its exit status, as ssh(1) gives it.

    Raises `GuestError` if the guest ended it by ending itself, `SshError`, `InterruptedRunError`,
    and `OSError` if standard output takes no more.
    """
    with _ssh(vm, ["-T"], [command], stdout=subprocess.PIPE) as ssh:
        output = OutputThread(ssh)
        output.start()
        status = _follow(ssh, cancelled)
        while output.is_alive():  # a slow reader
            _check(cancelled)
            output.join(LOOK_SECONDS)
    if output.error is not None:
        raise output.error
    if status == LOST_STATUS and (why := why_it_went(vm)):
        raise GuestError(f"`{command}` has no status: {why}")
    return status


def give_terminal(vm: VirtualMachine, cancelled: threading.Event) -> None:
    """Join this terminal with one in the guest until either ends.

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
    """The client with this process's standard streams, at the end of the block certainly dead."""
    # One that the caller has closed may by now be any other file.
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
            # It gives the terminal back when asked to end.
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _follow(ssh: "subprocess.Popen[bytes]", cancelled: threading.Event) -> int:
    """Wait for the client's end: its status. Raises `InterruptedRunError`, `SshError`."""
    ended = os.pidfd_open(ssh.pid)
    try:
        while not select.select([ended], [], [], LOOK_SECONDS)[0]:
            _check(cancelled)
            # By its escape `~^Z`: stop as one job, or the caller's shell would wait for ever.
            if os.waitid(os.P_PID, ssh.pid, os.WSTOPPED | os.WNOHANG):
                os.kill(os.getpid(), signal.SIGSTOP)
                ssh.send_signal(signal.SIGCONT)
    finally:
        os.close(ended)
    status = ssh.wait()
    if status < 0:
        # Ctrl-C reaches the client at the same time as this process.
        cancelled.wait(NOTICE_SECONDS)
    _check(cancelled)
    if status < 0:
        raise SshError(f"ssh was killed by {signal.Signals(-status).name}")
    return status


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise InterruptedRunError("interrupted")


class OutputThread(threading.Thread):
    """Brings the client's output to standard output, and ends the client when nobody reads it.

    On its own ssh would go on discarding, as dropbear is not told; a command of the host's shell
    would get SIGPIPE.
    """

    def __init__(self, ssh: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        self._ssh = ssh
        self.error: OSError | None = None
        """Why standard output took no more."""

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
    """What the guest itself did to end; None if it did nothing. Raises `GuestError` if it crashed.

    Call it when a connection has ended.
    """
    crash = next((f for f in vm.console.final_findings() if f.severity == "crash"), None)
    if crash is not None:
        raise GuestError(f"the guest crashed: {crash.title}", hint="see console.log")
    down = [
        event["data"]["reason"] for event in vm.monitor.events() if event["event"] == "SHUTDOWN"
    ]
    return {
        "guest-shutdown": "the guest has shut itself down",
        "guest-reset": "the guest has rebooted, which ends it here",
    }.get(down[0] if down else "")


def _boot_files(options: argparse.Namespace) -> BootFiles:
    """The one image to boot. Raises `UsageError`, and why it cannot be made."""
    images = choose_images(load_definitions(), options.image)
    if options.image and len(images) > 1:
        raise UsageError("--image names several images, and a shell is in one guest")
    image = images[0]
    boot = prepare_images([image], run_options(options), _tell)[image.name]
    if isinstance(boot, HarnessError):
        raise boot
    return boot


def _is_terminal(stream: TextIO | None) -> bool:
    """None: it was closed before Python began."""
    return stream is not None and stream.isatty()


def _tell(text: str) -> None:
    """To standard error: standard output is the guest's."""
    print(safe_text(text), file=sys.stderr, flush=True)
