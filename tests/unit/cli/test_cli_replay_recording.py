# SPDX-License-Identifier: Apache-2.0
"""`replay` of a recording: what is asked for wrongly gets one message."""

import socket
from pathlib import Path

import pytest

from harness.cli.main import main


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
