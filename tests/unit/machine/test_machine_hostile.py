# SPDX-License-Identifier: Apache-2.0
"""What a guest that means harm can do to a harness that listens to it: nothing for long.

Each behaviour ends in the project's own error, by its deadline at the latest, in bounded memory.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from machine_fakes import Bench

from harness.errors import BootError, DeadlineError, GuestError, HarnessError, SshError
from harness.machine.console import ConsoleScanner
from harness.machine.oops import headline_of
from harness.machine.ssh import HANDSHAKE_BYTES
from harness.machine.ssh_process import LINE_BYTES, OUTPUT_BYTES, SshProcess
from harness.machine.uname import parse_release
from harness.machine.vm import VirtualMachine

SLACK_SECONDS = 5.0
MOST_BYTES = 64 << 20

ENDLESS = "tr '\\0' x </dev/zero"
TRICKLE = "while :; do printf x; sleep 0.02; done"


@pytest.fixture
def vm(bench: Bench) -> Iterator[VirtualMachine]:
    with bench.launch("tcg") as vm:
        tracemalloc.start()
        began = time.monotonic()
        yield vm
        seconds, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES
        assert seconds < 2.0 + SLACK_SECONDS, "no behaviour is given more than 2 s"


# --- what a command prints ----------------------------------------------------------------------


def test_a_line_that_never_ends_is_given_up_at_its_limit(vm: VirtualMachine) -> None:
    with (
        vm.shell.start(ENDLESS) as talk,
        pytest.raises(GuestError, match=f"a line of more than {LINE_BYTES} bytes"),
    ):
        talk.read_line(60.0)


def test_output_that_never_ends_is_given_up_at_its_limit(vm: VirtualMachine) -> None:
    with pytest.raises(GuestError, match=f"more than {OUTPUT_BYTES} bytes; it began: b'xxxx"):
        vm.shell.run(ENDLESS, timeout=60.0)


def test_lines_longer_than_asked_for_are_no_answer(vm: VirtualMachine) -> None:
    with pytest.raises(GuestError, match="more than 256 bytes"):
        vm.shell.run("yes 6.1.0 | head -c 50000000", timeout=60.0, limit=256)


@pytest.mark.parametrize("stream", ["", " >&2"], ids=["stdout", "stderr"])
def test_the_deadline_of_a_command_runs_while_it_prints(vm: VirtualMachine, stream: str) -> None:
    with pytest.raises(DeadlineError, match=r"waited \d\.\d s"):
        vm.shell.run(f"({TRICKLE}){stream}", timeout=1.0)


def test_a_flood_of_errors_is_kept_in_part(vm: VirtualMachine) -> None:
    with pytest.raises(DeadlineError, match=r"waited \d\.\d s"):
        vm.shell.run("yes oh >&2", timeout=1.0)


def test_errors_that_go_on_after_the_output_has_ended(vm: VirtualMachine) -> None:
    with vm.shell.start("exec >&-; yes oh >&2") as talk, pytest.raises(HarnessError):
        talk.read_line(1.0)


@pytest.mark.parametrize(
    "read",
    [lambda talk: talk.read_line(1.0), lambda talk: talk.read_exactly(1 << 20, 1.0)],
    ids=["line", "bytes"],
)
def test_the_deadline_of_a_read_runs_while_bytes_come(
    vm: VirtualMachine, read: Callable[[SshProcess], object]
) -> None:
    with vm.shell.start(TRICKLE) as talk, pytest.raises(DeadlineError, match=r"waited \d\.\d s"):
        read(talk)


def test_a_command_that_reads_nothing(vm: VirtualMachine) -> None:
    with vm.shell.start("sleep 60") as talk, pytest.raises(DeadlineError, match="to read"):
        talk.write(bytes(20 << 20), 1.0)


def test_a_command_that_answers_while_it_reads_nothing(vm: VirtualMachine) -> None:
    with vm.shell.start(ENDLESS) as talk, pytest.raises(GuestError, match="not asked for"):
        talk.write(bytes(20 << 20), 60.0)


# --- its name -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "head -c 50000000 /dev/zero",
        "printf '6.1.0\\n| PASS |\\n'",
        "printf '\\377\\376\\n'",
        "printf '6.1\\033[2J\\n'",
        "printf '\\342\\200\\256gpj\\n'",
        "true",
        "echo 6.1.0 and more",
        "printf %065d 1",
    ],
    ids=["endless", "lines", "no UTF-8", "escape", "bidi", "silence", "spaces", "too long"],
)
def test_a_release_that_is_none_ends_the_run(bench: Bench, answer: str) -> None:
    bench.monkeypatch.setenv("FAKE_UNAME", answer)
    with pytest.raises(GuestError, match="uname -r"):
        bench.launch("tcg")


def test_releases_of_real_kernels() -> None:
    for release in ("6.1.0-50-cloud-amd64", "7.3.0-rc7+", "6.12.117+deb13-cloud-amd64"):
        assert parse_release(f"{release}\n".encode()) == release


# --- its greeting and its console ---------------------------------------------------------------


def test_a_greeting_that_never_ends(bench: Bench) -> None:
    began = time.monotonic()
    with pytest.raises(BootError, match=f"over {HANDSHAKE_BYTES} bytes before the log-in|log in"):
        bench.launch("tcg", tcg="babbler", boot_deadline=30.0)
    assert time.monotonic() - began < 30.0 + SLACK_SECONDS


def test_a_console_beyond_its_limit_ends_the_run_at_once(bench: Bench) -> None:
    bench.monkeypatch.setattr("harness.machine.console.MAX_BYTES", 4 << 20)
    began = time.monotonic()
    with pytest.raises(GuestError, match="more than 4MiB on its console") as caught:
        bench.launch("tcg", tcg="flood", boot_deadline=60.0)
    assert time.monotonic() - began < 20.0
    assert bench.artefacts / "console.log" in caught.value.evidence


def test_a_console_that_overflows_while_a_command_runs(bench: Bench) -> None:
    bench.monkeypatch.setattr("harness.machine.console.MAX_BYTES", 4 << 20)
    console = bench.artefacts / "console.log"
    with bench.launch("tcg") as vm, pytest.raises(GuestError, match="on its console"):
        vm.shell.run(f"head -c 5000000 /dev/zero >>{console}; sleep 60", timeout=60.0)


# --- patterns take a time proportional to the text ----------------------------------------------

PIECES = (
    *("a", "1", ":1", ":", " ", ".", "/", "-", "[", "[#", "f", "+0x1", "+0x1/", "\\"),
    *("WARNING: ", "WARNING: :1 ", "INFO: task a", "INFO: task :1 ", "BUG: a", "Oops: "),
    *(" in ", " at", ": 0000 [#", "Oops: a: 0000 [#1", "Killed process 1 (", "[ BUG: "),
)
HEADS = (
    *("", "a", "WARNING: ", "WARNING: a", "WARNING: a:1 ", "WARNING: CPU: 1 PID: 2 at "),
    *("Oops: ", "BUG: ", "BUG: KASAN: ", "[ BUG: ", "INFO: task ", "INFO: possible "),
    *("Out of memory: Killed process 1 (", "BUG: unable to handle ", "PANIC: "),
)


def seconds_of(line: str) -> float:
    """The least of three: what another process takes of the machine is not the pattern's."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        headline_of(line)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize("head", HEADS)
def test_no_line_holds_the_headlines_up(head: str) -> None:
    """`WARNING: :1:1:1` of 4 KiB once took 324 ms; a square would make 83 s of 64 KiB."""
    for piece in PIECES:
        for size, most in ((4 << 10, 0.02), (64 << 10, 0.3)):
            line = (head + piece * size)[:size]
            assert seconds_of(line) < most, (head, piece, size)


@pytest.mark.parametrize(
    "piece",
    [
        *(b"\r", b"\n", b"\r\n", b"[", b"[1", b"[    ", b"[1.000000]", b"[    1.000000] ", b"\0"),
        *(b"fpr-init: ", b"fpr-init: a\n", b"BUG ", b"WARNING: a\n", b"WARNING: :1:1", b"\xff"),
    ],
)
def test_no_console_holds_the_scanner_up(piece: bytes) -> None:
    for head in (b"", b"BUG\n", b"WARNING: x\n", b"[1.000000][", b"a[ "):
        scanner = ConsoleScanner()
        began = time.thread_time()
        scanner.feed((head + piece * (1 << 18))[: 1 << 18] + b"x\n")
        scanner.finish()
        assert time.thread_time() - began < 2.0, (head, piece)


def test_an_init_of_many_words_is_heard_in_part() -> None:
    scanner = ConsoleScanner()
    for number in range(10_000):
        scanner.feed(b"fpr-init: word%d\n" % number)
    assert len(scanner.said) <= 100


def test_broken_connection_is_told_apart(vm: VirtualMachine) -> None:
    with vm.shell.start("exit 3") as talk, pytest.raises(SshError, match="ended early"):
        talk.read_line(1.0)
