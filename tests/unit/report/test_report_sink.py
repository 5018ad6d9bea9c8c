# SPDX-License-Identifier: Apache-2.0
"""Output whose reader, disk or charset fails: the rest goes on as if it had been written."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.report.progress import ProgressView
from harness.report.sink import LastingSink


def test_reader_that_went_away_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file, ProgressView(file=LastingSink(file)) as view:
        for _ in range(3):
            view.note("a line")
    assert capsys.readouterr().err.count("cannot write more output (Broken pipe)") == 1


def test_full_disk_changes_no_exit_status() -> None:
    program = (
        "import sys\n"
        "from harness.report.sink import LastingSink\n"
        "sink = LastingSink(sys.stdout)\n"
        "print('lost', file=sink, flush=True)\n"
        "sys.exit(7)"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 7
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_file_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    file.close()
    sink = LastingSink(file)
    assert sink.write("text") == 4
    sink.flush()
    assert "cannot write more output" in capsys.readouterr().err


def test_poor_charset_gets_question_marks() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        LastingSink(file).write("4 \N{GREEK SMALL LETTER MU}s")
        file.flush()
        assert raw.getvalue() == b"4 ?s"
