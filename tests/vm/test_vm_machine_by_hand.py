# SPDX-License-Identifier: Apache-2.0
"""The command in repro.sh boots a guest whose console gives a person a root shell."""

import subprocess
import threading
from pathlib import Path

import pytest

from harness.deadline import Deadline, wait_for
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.launch import launch
from harness.machine.spec import GuestSpec
from harness.units import MIB

pytestmark = pytest.mark.vm

BOOT_SECONDS = 60.0


def test_guest_by_hand_gives_a_shell_on_the_terminal(tmp_path: Path) -> None:
    with launch(
        GuestSpec(memory=256 * MIB, vcpus=1, backend="file-shared"),
        ensure_image(load_definitions()["bookworm"], progress=print),
        accel="tcg",
        qemu=None,
        artefacts=tmp_path / "artefacts",
        progress=print,
        cancelled=threading.Event(),
    ) as vm:
        command = vm.argv_by_hand()
        runtime = vm.directory
    assert not runtime.exists()
    assert not any(str(runtime) in word for word in command)

    here = tmp_path / "here"
    here.mkdir()
    terminal = tmp_path / "terminal"
    with (
        terminal.open("wb") as output,
        subprocess.Popen(
            command, cwd=here, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        ) as by_hand,
    ):
        assert by_hand.stdin is not None
        try:
            _wait_for_words(terminal, b"fpr-init: ready", by_hand)
            by_hand.stdin.write(b"echo the answer is $((40 + 2))\n")
            by_hand.stdin.flush()
            _wait_for_words(terminal, b"the answer is 42", by_hand)
            assert {path.name for path in here.iterdir()} == {
                "by-hand-discards.log",
                "m0.ram",
                "qmp.sock",
            }
            by_hand.stdin.write(b"\x01x")
            by_hand.stdin.flush()
            assert by_hand.wait(10.0) == 0
        finally:
            by_hand.kill()


def _wait_for_words(terminal: Path, words: bytes, by_hand: subprocess.Popen[bytes]) -> None:
    def seen() -> bool | None:
        text = terminal.read_bytes()
        if words in text:
            return True
        assert by_hand.poll() is None, text[-2000:]
        return None

    wait_for(seen, Deadline(BOOT_SECONDS, f"{words!r} on the terminal"), interval=0.1)
