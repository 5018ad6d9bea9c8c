# SPDX-License-Identifier: Apache-2.0
"""Start a QEMU without a guest and query it over QMP; `qemu_probe` interprets the answers."""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.deadline import Deadline
from harness.errors import LaunchError
from harness.host_refusal import refusal_hint

PROBE_SECONDS = 20.0
END_SECONDS = 5.0
MOST_BYTES = 1 << 20
"""Limit of the answers, and of the text on standard error; real ones take about 30 KiB."""

HINT = "give --qemu the path of a qemu-system-x86_64, or a build of `fpr-harness qemu list`"
_ELF, _ELF_CLASS, _ELF_32 = b"\x7fELF", 4, 1  # elf(5): EI_CLASS, ELFCLASS32

# TCG first, so that the probe does not depend on the host's KVM.
BARE_OPTIONS = (
    *("-machine", "none,accel=tcg:kvm"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
    *("-qmp", "stdio"),
)
"""Of a QEMU that starts without a guest and answers on its standard output."""

_TRACED = "*qmp*"
"""Trace events of QMP itself, which the next command triggers, to see whether they are logged."""

_QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("capabilities", "qmp_capabilities", {}),
    ("version", "query-version", {}),
    ("target", "query-target", {}),
    ("machines", "query-machines", {}),
    ("balloon", "device-list-properties", {"typename": "virtio-balloon-pci"}),
    ("user-network", "netdev_add", {"type": "user", "id": "probe"}),
    ("sandbox", "query-command-line-options", {"option": "sandbox"}),
    ("kvm", "query-kvm", {}),
    ("events", "trace-event-get-state", {"name": "ram_block_discard*"}),
    ("trace", "trace-event-set-state", {"name": _TRACED, "enable": True}),
    ("traced", "query-status", {}),
    ("untrace", "trace-event-set-state", {"name": _TRACED, "enable": False}),
)
_LAST = _QUESTIONS[-1][0]


def is_elf(path: Path) -> bool:
    """Whether the file is a binary, and not a script that starts one."""
    return _start_of(path).startswith(_ELF)


def check_elf(path: Path, program: Path | None = None) -> None:
    """Refuse a 32-bit program: `program`, or `path` itself. Raises `LaunchError`."""
    start = _start_of(program or path)
    if start.startswith(_ELF) and start[_ELF_CLASS : _ELF_CLASS + 1] == bytes([_ELF_32]):
        raise LaunchError(
            f"{path} is a 32-bit program: its address space cannot hold the guests", hint=HINT
        )


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_ELF_CLASS + 1)
    except OSError:
        return b""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of a program."""

    by_name: dict[str, Any]
    """The `return` member of each answer; absent if the command failed."""
    traced: bool
    """Whether a trace event that occurred was written to the log."""


@dataclasses.dataclass
class _Talk:
    """The messages received so far."""

    answers: dict[str, Any] = dataclasses.field(default_factory=dict)
    other: list[str] = dataclasses.field(default_factory=list)
    """Lines that are not QMP, such as what a script prints before it executes QEMU."""
    whole: bool = False
    """Whether the last question was answered."""


def ask(path: Path) -> Answers:
    """Query a program over QMP. Raises `LaunchError` if it does not answer as QEMU does."""
    deadline = Deadline(PROBE_SECONDS, f"{path} to say what it is")
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", str(path), *BARE_OPTIONS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(
                f"cannot start {path} to probe it: {error}",
                hint=refusal_hint(error),
            ) from error
        try:
            talk = _converse(process, deadline)
            if talk.whole:
                _check_process(path, process.pid)
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    process.communicate(_command("quit", "quit", {}), timeout=END_SECONDS)
            ended = _end_of(process, deadline)
        finally:
            end_probe(process)
        words.seek(0)
        said = words.read(MOST_BYTES).decode("utf-8", "replace")
    if not talk.whole or not talk.answers:
        raise _no_qemu(path, ended, said, talk)
    return Answers(talk.answers, traced="handle_qmp_command" in said or "monitor_qmp" in said)


def _no_qemu(path: Path, ended: str, said: str, talk: _Talk) -> LaunchError:
    lines = said.strip().splitlines()[-3:] or talk.other[-3:]
    last = " / ".join(lines)[:300] or ("part of an answer" if talk.answers else "nothing")
    script = "cannot execute" in last or "failed to execute" in last
    return LaunchError(
        f"{path} does not answer as QEMU does: it {ended} and said {last}",
        hint=f"check that the interpreter or loader that it names exists, or {HINT}"
        if script
        else HINT,
    )


def _end_of(process: "subprocess.Popen[bytes]", deadline: Deadline) -> str:
    """Say how the process ended, or that it did not answer in time."""
    if deadline.passed:
        return f"had not answered after {PROBE_SECONDS:g} s"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)  # what has closed its end is about to go
    status = process.returncode
    if status is None:
        return "went on"
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-status, f'signal {-status}')}"
    return f"ended with status {status}"


def _command(name: str, command: str, arguments: dict[str, Any]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments, "id": name}).encode() + b"\n"


def _converse(process: "subprocess.Popen[bytes]", deadline: Deadline) -> _Talk:
    """Ask all questions, and read until the last answer, the process's end, or the deadline."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"".join(_command(*question) for question in _QUESTIONS))
        process.stdin.flush()
    talk = _Talk()
    for line in read_lines(process.stdout, deadline):
        try:
            message = json.loads(line) if line.startswith(b"{") else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            talk.other = [*talk.other[-2:], line.decode("utf-8", "replace")]
            continue
        name = message.get("id")
        if not isinstance(name, str):
            continue
        if "return" in message:
            talk.answers[name] = message["return"]
        if name == _LAST and ("return" in message or "error" in message):
            talk.whole = True
            break
    return talk


def read_lines(pipe: IO[bytes], deadline: Deadline) -> Iterator[bytes]:
    """Yield complete lines until the pipe ends, the deadline passes or `MOST_BYTES` are read."""
    text, taken = b"", 0
    while not deadline.passed and taken < MOST_BYTES:
        if not select.select([pipe], [], [], deadline.remaining)[0]:
            return
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        taken += len(data)
        *whole, text = (text + data).split(b"\n")
        yield from whole


def _check_process(path: Path, pid: int) -> None:
    """Check that the started process is QEMU itself, which the harness reads and signals."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return
    if children:
        raise LaunchError(
            f"{path} starts QEMU as a child process; the harness reads the memory of the process "
            "it starts",
            hint="put `exec` before QEMU in that script",
        )
    check_elf(path, Path(f"/proc/{pid}/exe"))


def end_probe(process: "subprocess.Popen[bytes]") -> None:
    """End a QEMU without a guest, and close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
