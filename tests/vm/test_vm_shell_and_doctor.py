# SPDX-License-Identifier: Apache-2.0
"""`shell` and `doctor` as a person uses them, with real guests, and nothing of them left."""

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ENDS_WITH_ITS_TEST, qemus_of

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError

pytestmark = pytest.mark.vm

BOOT_SECONDS = 75.0
"""More than the harness gives a boot, so that it is the one to say what went wrong."""

END_SECONDS = 30.0
SMALL = ("--accel", "tcg", "--memory", "256MiB", "--vcpus", "1")
FINDING = re.compile(r"^(ok|warn|bad)\s+\S")


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where everything temporary goes; a short path, for it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="fpr-test-") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(name)
        assert qemus_of(Path(name)) == []
        assert list(Path(name).iterdir()) == []


def start(*arguments: str, fd: int | None = None) -> subprocess.Popen[str]:
    """`fpr-harness` with pipes, or on the terminal `fd`."""
    return subprocess.Popen(
        [*ENDS_WITH_ITS_TEST, sys.executable, "-m", "harness", *arguments],
        stdin=subprocess.PIPE if fd is None else fd,
        stdout=subprocess.PIPE if fd is None else fd,
        stderr=subprocess.PIPE if fd is None else fd,
        text=True,
        start_new_session=True,
        preexec_fn=None if fd is None else _own_terminal,
    )


def _own_terminal() -> None:
    """Make standard input the session's terminal, as under a login: SIGWINCH goes there."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`fpr-harness` with pipes; killed if it outlives the block."""
    with start(*arguments) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Status, output and errors of `fpr-harness` run to its end."""
    with started(*arguments) as process:
        output, errors = process.communicate(stdin, timeout=2 * BOOT_SECONDS)
    assert "Traceback" not in errors
    return process.returncode, output, errors


# --- shell: one command -------------------------------------------------------------------------


@pytest.mark.usefixtures("scratch")
def test_command_has_our_streams_and_gives_its_status() -> None:
    script = 'cat; nproc; echo "$1" >&2; exit 7'
    status, output, errors = run(
        "shell", *SMALL, "--", "sh", "-c", script, "sh", "two  spaces", stdin="a word\n"
    )
    assert (status, output) == (7, "a word\n1\n")
    assert "two  spaces\n" in errors


@pytest.mark.usefixtures("scratch")
def test_one_word_is_a_line_for_the_guests_shell() -> None:
    status, output, _errors = run(
        "shell",
        *SMALL,
        "while read -r a b c; do echo $a $((b / 1024)); break; done < /proc/meminfo",
    )
    assert status == 0
    name, mebibytes = output.split()
    assert name == "MemTotal:"
    assert 180 < int(mebibytes) < 256


def test_guest_that_crashes_under_a_command_is_named_and_its_logs_are_kept(scratch: Path) -> None:
    status, _output, errors = run("shell", *SMALL, "echo c > /proc/sysrq-trigger")
    assert status == 69
    assert "the guest crashed: Kernel panic" in errors
    (kept,) = scratch.iterdir()
    assert f"logs are kept in {kept}" in errors
    assert "sysrq triggered crash" in (kept / "console.log").read_text(errors="replace")
    shutil.rmtree(kept)


def test_guest_that_does_not_boot_leaves_its_logs_and_says_where(scratch: Path) -> None:
    qemu = scratch / "qemu"
    ask = 'case "$*" in *none,*) exec qemu-system-x86_64 "$@";; esac'
    qemu.write_text(f"#!/bin/sh\n{ask}\necho woe >&2; exit 1\n")
    qemu.chmod(0o755)
    status, _output, errors = run("shell", *SMALL, "--qemu", str(qemu), "true")
    qemu.unlink()
    (kept,) = scratch.iterdir()
    assert status == 69
    assert f"logs are kept in {kept}" in errors
    assert "woe" in (kept / "qemu.log").read_text()
    shutil.rmtree(kept)


def test_output_that_nobody_reads_any_more_ends_it_as_sigpipe_would(scratch: Path) -> None:
    with started("shell", *SMALL, "yes") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        assert process.wait(END_SECONDS) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert qemus_of(scratch) == []


@pytest.mark.usefixtures("scratch")
def test_megabytes_go_in_and_out_unchanged() -> None:
    sent = "".join(f"{number:07}\n" for number in range(1 << 18))
    status, output, _errors = run("shell", *SMALL, "cat", stdin=sent)
    assert (status, output == sent) == (0, True)


def test_without_an_ssh_client_it_says_what_to_install(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    status, _output, errors = run("shell", *SMALL, "true")
    assert status == 69
    assert "install openssh-client" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("scratch")
def test_asked_to_stop_it_ends_the_guest(number: signal.Signals) -> None:
    with started("shell", *SMALL, "echo here; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        _output, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 69
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_asked_to_stop_it_ends_a_guest_that_no_longer_answers(scratch: Path) -> None:
    with started("shell", *SMALL, "echo here; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        (qemu,) = qemus_of(scratch)
        os.kill(qemu, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 69
    assert "interrupted" in errors


def test_asked_to_stop_while_the_guest_boots(scratch: Path) -> None:
    with started("shell", *SMALL, "true") as process:
        wait_for(lambda: qemus_of(scratch) or None, Deadline(BOOT_SECONDS, "QEMU"))
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 69
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "nonsense", "true"), "--memory: 'nonsense' is not a size"),
        (("--memory", "1KiB", "true"), "--memory: must be whole MiB and at least 64MiB"),
        (("--vcpus", "0", "true"), "--vcpus"),
        (("--image", "nope", "true"), "no image is called nope"),
        ((), "needs a terminal"),
    ],
)
@pytest.mark.usefixtures("scratch")
def test_what_cannot_be_meant_is_bad_usage(arguments: tuple[str, ...], words: str) -> None:
    status, _output, errors = run("shell", *arguments)
    assert (status, words in errors) == (2, True), errors


# --- shell: a terminal --------------------------------------------------------------------------


class Terminal:
    """A terminal with `fpr-harness shell` on it; `text` is what it shows."""

    def __init__(self, columns: int, rows: int) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self._theirs)
        self.text = ""
        self.process = start("shell", *SMALL, fd=self._theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._ours, 4096).decode(errors="replace")
            except OSError:
                return

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, words: str, seconds: float = 10.0) -> None:
        def seen() -> bool | None:
            if words in self.text:
                return True
            assert self.process.poll() is None, self.text
            return None

        try:
            wait_for(seen, Deadline(seconds, f"{words!r} on the terminal"), interval=0.05)
        except DeadlineError as error:
            raise AssertionError(f"{error.message}; it shows:\n{self.text}") from error

    @property
    def attributes(self) -> list[object]:
        return list(termios.tcgetattr(self._theirs))

    def end(self) -> int:
        """Wait for the end of the command: its status."""
        return self.process.wait(END_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def terminal(scratch: Path) -> Iterator[Terminal]:
    assert scratch.is_dir()
    terminal = Terminal(columns=97, rows=31)
    yield terminal
    terminal.close()
    assert "Traceback" not in terminal.text


def test_terminal_is_one_in_the_guest_and_ours_again_afterwards(terminal: Terminal) -> None:
    terminal.wait_for("~ # ", BOOT_SECONDS)
    assert "leave with `exit` or Ctrl-D" in terminal.text
    assert terminal.attributes != terminal.before
    terminal.type("stty size\n")
    terminal.wait_for("31 97")
    terminal.resize(80, 24)
    terminal.type("sleep 1; stty size\n")
    terminal.wait_for("24 80")
    # Ctrl-C is for what runs in the guest.
    terminal.type("sleep 1000\n")
    terminal.wait_for("sleep 1000")
    terminal.type("\x03")
    terminal.type("echo $((6 * 7)) still here\n")
    terminal.wait_for("42 still here")
    terminal.type("exit 3\n")
    assert terminal.end() == 0
    assert terminal.attributes == terminal.before


def test_guest_that_no_longer_answers_is_left_by_an_escape(
    terminal: Terminal, scratch: Path
) -> None:
    terminal.wait_for("~ # ", BOOT_SECONDS)
    (qemu,) = qemus_of(scratch)
    os.kill(qemu, signal.SIGSTOP)
    terminal.type("nobody hears\r~.")
    assert terminal.end() == 0
    assert terminal.attributes == terminal.before


def test_guest_shut_down_from_inside_ends_the_terminal(terminal: Terminal) -> None:
    terminal.wait_for("~ # ", BOOT_SECONDS)
    terminal.type("poweroff\n")
    assert terminal.end() == 0
    assert "the guest has shut itself down" in terminal.text
    assert terminal.attributes == terminal.before


def test_killed_by_sigterm_it_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.wait_for("~ # ", BOOT_SECONDS)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 69
    assert terminal.attributes == terminal.before


# --- doctor -------------------------------------------------------------------------------------


def states(output: str) -> dict[str, str]:
    """State of each finding by the first word of its name; the last line is the summary."""
    *findings, summary = output.splitlines()
    assert findings
    assert all(FINDING.match(line) for line in findings), output
    assert not FINDING.match(summary)
    for line in findings:
        assert ("-- to do: " in line) == (not line.startswith("ok ")), line
    return {line.split()[1]: line.split()[0] for line in findings}


@pytest.mark.usefixtures("scratch")
def test_doctor_tries_every_accelerator_for_real() -> None:
    status, output, errors = run("doctor")
    found = states(output)
    assert status == 0
    assert found["TCG"] == "ok"
    assert {
        "QEMU",
        "image",
        "KVM",
        "huge",
        "swap",
        "cgroup",
        "memory",
        "disk:",
        "kernel",
        "KSM",
    } < (found.keys())
    assert "trying TCG" in errors
    assert output.splitlines()[-1].startswith("guests can run here, under ")


@pytest.mark.usefixtures("scratch")
def test_doctor_with_one_accelerator_says_whether_that_one_works() -> None:
    status, output, _errors = run("doctor", "--accel", "kvm")
    found = states(output)
    assert "TCG" not in found
    assert (found["KVM"], status) in {("ok", 0), ("bad", 69)}


@pytest.mark.usefixtures("scratch")
def test_doctor_without_qemu_still_tells_all_the_rest() -> None:
    status, output, _errors = run("doctor", "--qemu", "/nonexistent/qemu")
    found = states(output)
    assert status == 69
    assert (found["QEMU"], found["KVM"], found["TCG"]) == ("bad", "bad", "bad")
    assert found["memory"] == "ok"
    assert output.splitlines()[-1].startswith("no guest can run here")


def test_doctor_asked_to_stop_ends_its_guest(scratch: Path) -> None:
    with started("doctor", "--accel", "tcg") as process:
        wait_for(lambda: qemus_of(scratch) or None, Deadline(BOOT_SECONDS, "QEMU"))
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 69
    assert "interrupted" in errors
    assert "Traceback" not in errors
