# SPDX-License-Identifier: Apache-2.0
"""Asks a QEMU what it is, before a guest is given to it: one process without a guest, over QMP.

Some 0.1 s; for a program file the answer is kept in the cache until the file changes.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from harness.deadline import Deadline
from harness.errors import LaunchError
from harness.image.cache import cache_directory
from harness.machine.qemu import DISCARD_EVENTS, Qemu, lacking

PROBE_SECONDS = 20.0
END_SECONDS = 5.0
MOST_BYTES = 1 << 23
"""Of answers and of words on standard error: real ones come to some 30 KiB."""

_HINT = "name a qemu-system-x86_64 with --qemu, or one of the builds that `--qemu all` stands for"
_ELF, _ELF_CLASS, _ELF_32 = b"\x7fELF", 4, 1  # elf(5): EI_CLASS, ELFCLASS32

# TCG first: whether the host's KVM works is of no concern here.
_OPTIONS = (
    *("-machine", "none,accel=tcg:kvm"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
    *("-qmp", "stdio"),
)

_TRACED = "*qmp*"
"""Events of QMP itself, which the very next command brings about: do they end up in a log?"""

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

_probing = threading.Lock()


def find_qemu(given: Path | None) -> Qemu:
    """The QEMU to use, able to run the harness's guests.

    Raises `LaunchError` with all that is wrong with it.
    """
    qemu = probe(_program(given))
    if lacks := lacking(qemu):
        raise LaunchError(
            f"QEMU {qemu.version} ({qemu.path}) cannot be used: {'; '.join(lacks)}", hint=_HINT
        )
    return qemu


def _program(given: Path | None) -> Path:
    name = str(given) if given is not None else "qemu-system-x86_64"
    path = shutil.which(name)
    if path is not None:
        return Path(path)
    if given is not None and given.is_dir():
        raise LaunchError(f"{name} is a directory, not a program", hint=_HINT)
    raise LaunchError(
        f"{name} is not there or not executable",
        hint="run `make setup`, or name one with --qemu",
    )


def probe(path: Path) -> Qemu:
    """What the program says about itself. Raises `LaunchError` if it is not QEMU."""
    with path.open("rb") if os.access(path, os.R_OK) else contextlib.nullcontext() as file:
        start = file.read(_ELF_CLASS + 1) if file is not None else b""
    if start.startswith(_ELF):
        _check_elf(path, start)
    # What a script leads to may change behind it.
    kept = _shelf(path) if start.startswith(_ELF) or _is_ours(path) else None
    with _probing:
        if kept is not None and (known := _read(kept, path)) is not None:
            return known
        found = _understood(path, _ask(path))
        if kept is not None:
            _keep(kept, found)
        return found


def _check_elf(path: Path, start: bytes) -> None:
    if start[_ELF_CLASS : _ELF_CLASS + 1] == bytes([_ELF_32]):
        raise LaunchError(
            f"{path} is a 32-bit program: its address space cannot hold the guests", hint=_HINT
        )


# --- asking -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Answers:
    by_name: dict[str, Any]
    """The `return` member of each question; absent where it was refused."""
    traced: bool
    """Whether a trace event that took place was written to the log."""


def _ask(path: Path) -> _Answers:
    deadline = Deadline(PROBE_SECONDS, f"{path} to say what it is")
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", str(path), *_OPTIONS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(
                f"cannot start {path} to ask it what it is: {error}",
                hint="is util-linux (setpriv) installed?",
            ) from error
        try:
            answers = _converse(process, deadline)
            if answers is not None:
                _check_process(path, process.pid)
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    process.communicate(_command("quit", "quit", {}), timeout=END_SECONDS)
        finally:
            _end(process)
        words.seek(0)
        said = words.read(MOST_BYTES).decode("utf-8", "replace")
    if answers is None:
        last = " / ".join(said.strip().splitlines()[-3:]) or "nothing"
        late = f" in {PROBE_SECONDS:.0f} s" if deadline.passed else ""
        raise LaunchError(
            f"{path} does not answer{late} as QEMU does: it said {last[:300]}",
            hint=_HINT,
        )
    return _Answers(answers, traced="handle_qmp_command" in said or "monitor_qmp" in said)


def _command(name: str, command: str, arguments: dict[str, Any]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments, "id": name}).encode() + b"\n"


def _converse(process: "subprocess.Popen[bytes]", deadline: Deadline) -> dict[str, Any] | None:
    """The answers; None if it ended, or fell silent, before it had answered everything."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"".join(_command(*question) for question in _QUESTIONS))
        process.stdin.flush()
    answers: dict[str, Any] = {}
    for line in _lines(process.stdout, deadline):
        try:
            message = json.loads(line)
        except ValueError:
            return None
        name = message.get("id") if isinstance(message, dict) else None
        if name is not None and "return" in message:
            answers[name] = message["return"]
        if name == _LAST:
            return answers or None
    return None


def _lines(pipe: IO[bytes], deadline: Deadline) -> Iterator[bytes]:
    """Whole lines as they come, until the pipe ends, the deadline passes or it is too much."""
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
    """What was started must be QEMU itself: its process is what the harness reads and signals."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        with Path(f"/proc/{pid}/exe").open("rb") as program:
            start = program.read(_ELF_CLASS + 1)
    except OSError:
        return
    if children:
        raise LaunchError(
            f"{path} starts QEMU as a child process; the harness reads the memory of the process "
            "it starts",
            hint="put `exec` before QEMU in that script",
        )
    _check_elf(path, start)


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


# --- understanding ------------------------------------------------------------------------------


def _understood(path: Path, answers: _Answers) -> Qemu:
    found = answers.by_name
    try:
        number = found["version"]["qemu"]
        machines = [word for m in found["machines"] for word in (m["name"], m.get("alias")) if word]
        event, why = _discard_event(found, answers.traced)
        return Qemu(
            path=path,
            version=f"{number['major']}.{number['minor']}.{number['micro']}",
            package=str(found["version"].get("package", "")),
            architecture=str(found["target"]["arch"]),
            machines=frozenset(map(str, machines)),
            balloon=frozenset(str(p["name"]) for p in found.get("balloon", ())),
            user_network="user-network" in found,
            sandbox="sandbox" in found,
            kvm=bool(found.get("kvm", {}).get("present")),
            discard_event=event,
            untraced=why,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise LaunchError(
            f"{path} answers QMP, but not as QEMU does: {error!r}", hint=_HINT
        ) from error


def _discard_event(found: dict[str, Any], traced: bool) -> tuple[str | None, str]:
    """The event to ask for, or why there is none."""
    if "trace" not in found or not traced:
        return None, "it is built without the trace backend `log`"
    there = {e["name"] for e in found.get("events", ()) if e.get("state") != "unavailable"}
    for name in DISCARD_EVENTS:
        if name in there:
            return name, ""
    return None, f"it has no trace event {' or '.join(DISCARD_EVENTS)}"


# --- the cache ----------------------------------------------------------------------------------

_FACTS = TypeAdapter(Qemu)


def _is_ours(path: Path) -> bool:
    """An unpacked build of the cache: its script is made with what it leads to."""
    return path.resolve().is_relative_to(cache_directory().resolve())


def _shelf(path: Path) -> Path | None:
    """Where the answers of this very file are kept: by its place, size, inode and times."""
    try:
        state = path.stat()
    except OSError:
        return None
    words = (path.resolve(), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
    hashed = hashlib.sha256(repr(words).encode())
    hashed.update(Path(__file__).read_bytes())
    return cache_directory() / "probes" / f"{hashed.hexdigest()[:24]}.json"


def _read(kept: Path, path: Path) -> Qemu | None:
    try:
        return dataclasses.replace(_FACTS.validate_json(kept.read_bytes()), path=path)
    except (OSError, ValidationError):
        return None


def _keep(kept: Path, found: Qemu) -> None:
    """A cache that cannot be written is no loss but time."""
    temporary = kept.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_FACTS.dump_json(found))
        temporary.replace(kept)
