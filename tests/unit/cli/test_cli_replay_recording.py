# SPDX-License-Identifier: Apache-2.0
"""`replay` of a recording: what is asked for wrongly gets one message."""

import socket
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.machine.recording import INITRAMFS, KERNEL, LOG, Machine, write_recording
from harness.machine.spec import GuestSpec


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    return main(["replay", *words]), capsys.readouterr().err


def test_a_directory_without_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = complaint(capsys, str(tmp_path))
    assert status == 69
    assert f"{tmp_path} has no recording of a guest" in text


def test_a_debugger_needs_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = complaint(capsys, str(tmp_path / "bundle.tgz"), "--gdb", "1234")
    assert status == 2
    assert "--gdb needs a recording" in text


def test_a_port_that_is_taken_or_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, text = complaint(capsys, str(tmp_path), "--gdb", port)
    assert (status, f"--gdb {port}: Address already in use" in text) == (2, True)
    status, text = complaint(capsys, str(tmp_path), "--gdb", "70000")
    assert (status, "--gdb 70000: " in text) == (2, True)


def a_recording(run: Path, **spec: Any) -> Path:
    """The directory of a run, whose recording may come from anybody."""
    for name in (KERNEL, INITRAMFS, LOG):
        (run / name).write_bytes(b"some")
    (run / "console.log").write_bytes(b"some")
    machine = Machine(GuestSpec(1 << 30, 1, clock="virtual", rr="record", **spec), "10.0.13")
    write_recording(run, machine, log=run / LOG, kernel=run / KERNEL, initrd=run / INITRAMFS)
    return run


def test_words_for_qemu_in_a_recording_need_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-drive", "file=/etc/shadow")
    status, text = complaint(capsys, str(a_recording(tmp_path, qemu_args=words)))
    assert status == 2
    assert "(-drive file=/etc/shadow)" in text
    assert "--allow-qemu-args" in text


@pytest.mark.parametrize(
    "words",
    [("--kernel", "/"), ("--modules", "/"), ("--results", "there"), ("--accel", "kvm")],
    ids=" ".join,
)
def test_what_a_recording_leaves_no_choice_of_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    status, text = complaint(capsys, str(a_recording(tmp_path)), *words)
    assert status == 2
    assert f"{words[0]}" in text
    assert "repeated as it was" in text
