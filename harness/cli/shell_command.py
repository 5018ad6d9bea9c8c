# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness shell`: a terminal in a guest, or one command in it."""

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import paramiko
from pydantic import ValidationError

from harness.cli.options import run_options
from harness.errors import GuestError, HarnessError, InterruptedRunError, LaunchError, UsageError
from harness.image.build import BootFiles
from harness.image.definition import load_definitions
from harness.machine.gone import NOTICE_SECONDS
from harness.machine.launch import launch
from harness.machine.process import kill_all, stop_all
from harness.machine.spec import GuestSpec
from harness.machine.ssh import KILLED
from harness.machine.vm import VirtualMachine
from harness.run.invocation import prepare_images
from harness.run.plan import choose_images
from harness.scenario.model import Guest
from harness.units import parse_size

LEAVE = b"\x1d"
"""Ctrl-], as in telnet: leaves a guest that no longer answers."""

KILLED_STATUS = 255
"""For a command without a status, as ssh(1) has it."""

PIPE_STATUS = 128 + signal.SIGPIPE
"""What a shell says of a program whose output nobody wants to read."""

LOOK_SECONDS = 0.2
"""Between looks at what makes no noise: a changed window, a request to stop."""

BUSY_SECONDS = 0.02
"""The same while the guest does not take what it is sent."""

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
    boot = _boot_files(options)
    with artefact_directory() as artefacts, stopping_guests() as cancelled:
        vm = launch(
            spec,
            boot,
            accel=options.accel,
            qemu=options.qemu,
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
                "leave with `exit` or Ctrl-D, or with Ctrl-] if it no longer answers\n"
                f"another terminal: {vm.ssh_hint}"
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
    """Run a command with this process's standard streams; its exit status.

    Raises what ends a connection, `InterruptedRunError`.
    """
    process = vm.shell.start(command)
    carry = Carrier(process._channel, cancelled, terminal=False)
    try:
        carry.run()
    except BrokenPipeError:
        return PIPE_STATUS
    try:
        status = process.wait(NOTICE_SECONDS).status
    except HarnessError as error:
        if why := why_it_went(vm):
            raise GuestError(f"`{command}` has no status: {why}") from error
        raise
    if status == KILLED:
        _tell(f"`{command}` was killed by a signal")
        return KILLED_STATUS
    return status


def give_terminal(vm: VirtualMachine, cancelled: threading.Event) -> None:
    """Join this terminal with one in the guest until either ends.

    Raises `GuestError` if the guest crashed, and what ends a connection.
    """
    here = sys.stdin.fileno()
    size = os.get_terminal_size(here)
    channel = vm.shell.open_terminal(os.environ.get("TERM", "vt100"), size.columns, size.lines)
    before = termios.tcgetattr(here)
    try:
        tty.setraw(here, termios.TCSADRAIN)  # keeps what was typed meanwhile
        carry = Carrier(channel, cancelled, terminal=True)
        carry.run()
    finally:
        termios.tcsetattr(here, termios.TCSADRAIN, before)
    if carry.left or channel.exit_status >= 0:
        return
    if why := why_it_went(vm):
        _tell(why)
        return
    vm.sleep_alive(NOTICE_SECONDS)
    _tell("the guest has ended the session")


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


class Carrier:
    """Carries bytes between a channel to the guest and this process's standard streams."""

    def __init__(
        self, channel: paramiko.Channel, cancelled: threading.Event, *, terminal: bool
    ) -> None:
        self._channel = channel
        self._cancelled = cancelled
        self._terminal = terminal
        # None where the caller has closed it: descriptor 0 may then be any other file.
        self._input = sys.stdin.fileno() if sys.stdin is not None else None
        self._size: os.terminal_size | None = None
        self._pending = b""
        self.left = False
        """Whether Ctrl-] was pressed."""

    def run(self) -> None:
        """Until the guest closes its side. Raises `InterruptedRunError`, `BrokenPipeError`."""
        channel = self._channel
        if self._input is None:
            self._end_input()
        while not self.left:
            ready = self._wait()
            over = channel.closed or (channel.eof_received and channel.status_event.is_set())
            self._bring_out()
            if self._cancelled.is_set():
                raise InterruptedRunError("interrupted")
            if over:
                return
            self._follow_window()
            if self._input in ready:
                self._take_in()
            self._send()

    def _wait(self) -> list[int]:
        """Until there is something to do: the descriptors to read."""
        # After its end a channel counts as readable for ever.
        descriptors = [] if self._channel.eof_received else [self._channel.fileno()]
        if self._input is not None and not self._pending:
            descriptors.append(self._input)
        busy = self._pending or self._channel.eof_received
        return select.select(descriptors, [], [], BUSY_SECONDS if busy else LOOK_SECONDS)[0]

    def _bring_out(self) -> None:
        while self._channel.recv_ready():
            _write(1, self._channel.recv(CHUNK))
        while self._channel.recv_stderr_ready():
            _write(2, self._channel.recv_stderr(CHUNK))

    def _take_in(self) -> None:
        assert self._input is not None
        try:
            data = os.read(self._input, CHUNK)
        except OSError:  # the terminal has hung up
            data = b""
        if self._terminal and LEAVE in data:
            self.left = True
        elif data:
            self._pending = data
        else:
            self._end_input()

    def _end_input(self) -> None:
        self._input = None
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def _send(self) -> None:
        if not self._pending or not self._channel.send_ready():
            return
        try:
            sent = self._channel.send(self._pending)
        except (paramiko.SSHException, OSError, EOFError):
            sent = 0
        if sent == 0:  # nobody reads it any more
            self._input, self._pending = None, b""
        self._pending = self._pending[sent:]

    def _follow_window(self) -> None:
        if not self._terminal or self._input is None:
            return
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            size = os.get_terminal_size(self._input)
            if size != self._size:
                self._channel.resize_pty(size.columns, size.lines)
                self._size = size


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


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _tell(text: str) -> None:
    """To standard error: standard output is the guest's."""
    print(text, file=sys.stderr, flush=True)
