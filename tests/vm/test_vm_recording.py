# SPDX-License-Identifier: Apache-2.0
"""A recorded guest is replayed to its end, and forwards and backwards under a debugger.

Needs QEMU 10.0 or later: the installed one, or a build that was fetched before.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ENDS_WITH_ITS_TEST

from harness.deadline import Deadline, wait_for
from harness.image.qemu_build import find_qemu_build
from harness.image.qemu_definition import HOST, load_qemus
from harness.machine.needs import REPLAYS_NETWORK
from harness.machine.qemu_probe import find_qemu
from harness.machine.recording import LOG, RECORDING

pytestmark = pytest.mark.vm

SCENARIO = """\
name: recorded
title: A guest frees memory and says so
guest: {memory: 256MiB, vcpus: 1}
steps:
  - churn: {size: 20%}
  - run: {command: "echo freed >/dev/ttyS0"}
  - audit: {}
"""
PC = 16
"""Number of the instruction pointer among gdb's registers of x86-64."""


def new_enough() -> str:
    if find_qemu(None).release >= REPLAYS_NETWORK:
        return HOST
    for name in ("trixie", "sid"):
        if find_qemu_build(load_qemus()[name]) is not None:
            return name
    pytest.skip("no QEMU from 10.0 on: see `make test-qemus`")


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a recorded run."""
    directory = tmp_path_factory.mktemp("recorded")
    scenario = directory / "recorded.yaml"
    scenario.write_text(SCENARIO)
    words = ["run", str(scenario), "--record", "--qemu", new_enough(), "--image", "bookworm"]
    ended = harness(*words, "--results", str(directory / "results"))
    assert ended.returncode == 0, ended.stdout
    return directory / "results" / "recorded"


def test_replay_says_the_same_and_a_changed_console_is_told(run: Path, tmp_path: Path) -> None:
    same = harness("replay", str(run), "--qemu", new_enough())
    assert same.returncode == 0, same.stderr
    assert "its console says the same again" in same.stdout

    other = shutil.copytree(run, tmp_path / "other")
    console = (other / "console.log").read_bytes().splitlines(keepends=True)
    console[3] = b"x" + console[3][1:]
    (other / "console.log").write_bytes(b"".join(console))
    differs = harness("replay", str(other), "--qemu", new_enough())
    assert differs.returncode == 1
    assert f"differs from line 4 of {other / 'console.log'} on" in differs.stdout


def test_a_log_cut_short_is_one_message(run: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(run, tmp_path / "cut")
    log = cut / RECORDING / LOG
    os.truncate(log, log.stat().st_size // 4)
    ended = harness("replay", str(cut), "--qemu", new_enough())
    assert ended.returncode in (1, 69)
    assert "Traceback" not in ended.stderr


class Gdb:
    """The remote serial protocol of gdb, as far as the test speaks it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60.0)

    def ask(self, words: str) -> str:
        self._socket.sendall(f"${words}#{sum(words.encode()) % 256:02x}".encode())
        answer = b""
        while b"#" not in answer or len(answer.partition(b"#")[2]) < 2:
            got = self._socket.recv(4096)
            assert got, "the server is gone"
            answer += got
        self._socket.sendall(b"+")
        return answer.partition(b"$")[2].partition(b"#")[0].decode()

    def pc(self) -> int:
        registers = bytes.fromhex(self.ask("g"))
        return int.from_bytes(registers[PC * 8 : PC * 8 + 8], "little")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def debugged(run: Path) -> Iterator[tuple[Gdb, "subprocess.Popen[str]"]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["replay", str(run), "--qemu", new_enough(), "--gdb", str(port)]
    with subprocess.Popen(
        [*ENDS_WITH_ITS_TEST, sys.executable, "-m", "harness", *words],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = ""
        while f"target remote 127.0.0.1:{port}" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        gdb = Gdb(port)
        try:
            yield gdb, process
        finally:
            gdb.close()
            process.terminate()


def test_debugger_steps_back_to_where_it_was(
    debugged: tuple[Gdb, "subprocess.Popen[str]"],
) -> None:
    gdb, process = debugged
    places = [gdb.pc()]
    for _ in range(5):
        assert gdb.ask("s").startswith("T05")
        places.append(gdb.pc())
    assert len(set(places)) > 3
    assert gdb.ask("bs").startswith("T05")
    assert gdb.pc() == places[-2]

    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None or None, Deadline(30.0, "the replay to end"))
    assert process.returncode == 0, "that is how it is ended"
