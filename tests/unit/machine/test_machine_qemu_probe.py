# SPDX-License-Identifier: Apache-2.0
"""What a QEMU is asked before a guest is given to it, and which are refused, in one message."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from machine_fakes import Bench
from qemus import a_qemu

from harness.errors import LaunchError
from harness.machine import qemu_ask
from harness.machine.qemu import DENIED
from harness.machine.qemu_probe import find_qemu


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def refusal(path: Path) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        find_qemu(path)
    assert "--qemu" in caught.value.hint or "exec" in caught.value.hint
    return caught.value


def test_a_qemu_says_what_it_is(bench: Bench) -> None:
    qemu = find_qemu(bench.qemu)
    assert (qemu.path, qemu.version, qemu.major) == (bench.qemu, "9.1.2", 9)
    assert qemu.discard_event == "ram_block_discard_range"
    assert {"pc", "pc-i440fx-9.1", "microvm"} <= qemu.machines
    assert (qemu.package, qemu.kvm) == ("fake", True)
    assert (qemu.denied, replace(qemu, as_root="").unconfined) == (DENIED, "")


@pytest.mark.parametrize(
    ("settings", "denied", "why"),
    [
        (set(), (), "built without a seccomp filter"),
        (
            {"obsolete", "spawn", "unheard-of"},
            ("obsolete", "spawn"),
            "cannot deny elevateprivileges, resourcecontrol",
        ),
    ],
)
def test_a_qemu_is_told_to_deny_what_its_filter_can(
    settings: set[str], denied: tuple[str, ...], why: str
) -> None:
    qemu = a_qemu(sandbox=frozenset(settings))
    assert qemu.denied == denied
    assert why in qemu.unconfined


def test_the_event_of_a_newer_qemu_is_taken_by_its_own_name(bench: Bench) -> None:
    bench.monkeypatch.setenv("FAKE_EVENT", "ram_block_discard_shared_range")
    assert find_qemu(bench.qemu).discard_event == "ram_block_discard_shared_range"


@pytest.mark.parametrize(
    ("lacks", "event", "why"),
    [
        ("event", "ram_block_discard_range", "no trace event"),
        ("", "ram_block_discard_of_tomorrow", "no trace event"),
        ("log", "ram_block_discard_range", "without the trace backend `log`"),
        ("trace-event-set-state", "ram_block_discard_range", "without the trace backend `log`"),
    ],
)
def test_a_qemu_that_traces_no_discards_is_usable_and_known_for_it(
    bench: Bench, lacks: str, event: str, why: str
) -> None:
    bench.monkeypatch.setenv("FAKE_LACKS", lacks)
    bench.monkeypatch.setenv("FAKE_EVENT", event)
    qemu = find_qemu(bench.qemu)
    assert qemu.discard_event is None
    assert why in qemu.untraced


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("free-page-reporting", "no free page reporting, which QEMU 5.1 introduced"),
        ("virtio-balloon-pci", "no virtio-balloon-pci"),
        ("netdev_add", "no user networking (slirp)"),
        ("pc", "no machine type pc"),
    ],
)
def test_a_qemu_that_lacks_what_every_run_needs_is_refused(
    bench: Bench, lacks: str, words: str
) -> None:
    bench.monkeypatch.setenv("FAKE_LACKS", lacks)
    error = refusal(bench.qemu)
    assert words in error.message
    assert "9.1.2" in error.message


def test_all_that_is_lacking_stands_in_one_message(bench: Bench) -> None:
    bench.monkeypatch.setenv("FAKE_LACKS", "free-page-reporting,netdev_add")
    assert "reporting" in refusal(bench.qemu).message
    assert "slirp" in refusal(bench.qemu).message


def test_a_qemu_for_another_architecture_is_refused_for_that_alone(bench: Bench) -> None:
    bench.monkeypatch.setenv("FAKE_ARCH", "aarch64")
    bench.monkeypatch.setenv("FAKE_LACKS", "pc")
    message = refusal(bench.qemu).message
    assert "it runs aarch64 guests, and the harness needs x86_64" in message
    assert "pc" not in message.replace("/", " ").split()


# --- programs that are no QEMU --------------------------------------------------------------------


def test_what_is_no_program_is_named_for_what_it_is(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent").message == f"{tmp_path}/absent: no such file"
    assert refusal(tmp_path).message == f"{tmp_path}: a directory, not a program"
    (tmp_path / "text").touch()
    assert "is not executable by you (chmod +x)" in refusal(tmp_path / "text").message
    (tmp_path / "link").symlink_to("nowhere")
    assert "a dangling symbolic link" in refusal(tmp_path / "link").message
    (tmp_path / "loop").symlink_to("loop")
    assert "leads back to itself" in refusal(tmp_path / "loop").message


def test_nobody_waits_for_a_pipe_with_the_rights_of_a_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o755)
    (tmp_path / "pipe").chmod(0o755)
    assert "a FIFO, not a program" in refusal(tmp_path / "pipe").message


def test_a_script_that_is_no_qemu(tmp_path: Path) -> None:
    error = refusal(program(tmp_path / "qemu", "echo missing library >&2; exit 127"))
    expected = "as QEMU does: it ended with status 127 and said missing library"
    assert expected in error.message


def test_a_program_that_dies_at_once_is_told_by_its_signal(tmp_path: Path) -> None:
    error = refusal(program(tmp_path / "qemu", "kill -SEGV $$"))
    assert "it was killed by SIGSEGV and said nothing" in error.message


def test_what_it_says_on_standard_output_is_told_too(tmp_path: Path) -> None:
    error = refusal(program(tmp_path / "qemu", "echo no such device; exit 1"))
    assert "ended with status 1 and said no such device" in error.message


def test_a_script_whose_interpreter_is_absent(tmp_path: Path) -> None:
    script = program(tmp_path / "qemu", "")
    script.write_text("#!/nonexistent\n")
    assert "interpreter or loader" in refusal(script).hint


def test_a_script_may_speak_before_it_becomes_qemu(bench: Bench) -> None:
    chatty = program(bench.directory / "chatty", f'echo starting; exec "{bench.qemu}" "$@"')
    assert find_qemu(chatty).version == "9.1.2"


@pytest.mark.parametrize("number", ['"nine"', "null", "[]", '"9\\u001b[31m"'])
def test_a_version_that_is_no_number_is_refused(bench: Bench, number: str) -> None:
    bench.monkeypatch.setenv("FAKE_MAJOR", number)
    assert "speaks QMP, but does not answer as QEMU does" in refusal(bench.qemu).message


def test_a_program_that_prints_without_end_is_given_up_at_a_limit(tmp_path: Path) -> None:
    endless = program(tmp_path / "qemu", "exec yes")
    assert "as QEMU does: it went on and said y" in refusal(endless).message


@pytest.mark.parametrize("words", ["echo '{}'", "echo not json", "yes '{}'", "cat"])
def test_a_program_that_says_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(qemu_ask, "PROBE_SECONDS", 2.0)
    assert "as QEMU does" in refusal(program(tmp_path / "qemu", words)).message


def test_a_program_that_is_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_ask, "PROBE_SECONDS", 0.3)
    began = time.monotonic()
    silent = program(tmp_path / "qemu", "exec sleep 100")
    assert "had not answered after 0.3 s" in refusal(silent).message
    assert time.monotonic() - began < 5


def test_a_file_that_cannot_be_executed(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_bytes(b"\x7fELF\x02, but no more of it")
    (tmp_path / "qemu").chmod(0o755)
    assert "does not answer as QEMU does" in refusal(tmp_path / "qemu").message


def test_a_32_bit_qemu_is_refused_before_it_is_started(tmp_path: Path) -> None:
    """Its guests' memory has no place in its address space."""
    (tmp_path / "qemu").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(64))
    (tmp_path / "qemu").chmod(0o755)
    assert "is a 32-bit program" in refusal(tmp_path / "qemu").message


def test_a_script_that_does_not_become_qemu_is_refused(bench: Bench) -> None:
    """The harness would read the memory of the script."""
    wrapper = program(bench.directory / "wrapper", f'"{bench.qemu}" "$@"\nexit $?')
    error = refusal(wrapper)
    assert "starts QEMU as a child process" in error.message
    assert find_qemu(program(bench.directory / "better", f'exec "{bench.qemu}" "$@"')).major == 9


def test_nothing_that_was_asked_stays_alive(bench: Bench) -> None:
    mark = bench.directory / "pid"
    stubborn = program(bench.directory / "stubborn", f"echo $$ >{mark}; trap '' TERM; sleep 100")
    bench.monkeypatch.setattr(qemu_ask, "PROBE_SECONDS", 0.5)
    refusal(stubborn)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# --- what is kept ---------------------------------------------------------------------------------


def test_a_program_file_is_asked_once_until_it_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    real = qemu_ask.ask

    def ask(path: Path) -> object:
        asked.append(path)
        return real(bench.qemu)

    monkeypatch.setattr(qemu_ask, "ask", ask)
    binary = bench.directory / "elf"
    binary.write_bytes(b"\x7fELF\x02" + bytes(16))
    binary.chmod(0o755)
    first = find_qemu(binary)
    assert find_qemu(binary) == first
    assert len(asked) == 1
    os.utime(binary, ns=(1, 1))
    find_qemu(binary)
    assert len(asked) == 2
    for kept in (bench.directory / "cache").rglob("probes/*"):
        kept.write_text("{}")
    assert find_qemu(binary) == first
    assert len(asked) == 3


def test_a_script_is_asked_each_time_for_what_it_leads_to_may_change(bench: Bench) -> None:
    assert find_qemu(bench.qemu).discard_event is not None
    bench.monkeypatch.setenv("FAKE_LACKS", "event")
    assert find_qemu(bench.qemu).discard_event is None


def test_the_installed_qemu_is_asked_within_half_a_second() -> None:
    """The fastest of three: the machine may be busy."""
    find_qemu(None)

    def seconds() -> float:
        began = time.monotonic()
        qemu_ask.ask(find_qemu(None).path)
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_question_needs_no_terminal_and_leaves_standard_streams_alone(bench: Bench) -> None:
    code = (
        "from pathlib import Path; from harness.machine.qemu_probe import find_qemu; "
        f"print(find_qemu(Path({str(bench.qemu)!r})).version)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("9.1.2\n", "")
