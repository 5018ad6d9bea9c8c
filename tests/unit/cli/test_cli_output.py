# SPDX-License-Identifier: Apache-2.0
"""What a command says where streams, names or the harness itself are broken: no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu

from harness.cli.main import main

pytestmark = pytest.mark.whole_command


def list_images(output: int) -> tuple[int, str]:
    """Status and complaints of a command that prints a few lines there."""
    words = [sys.executable, "-m", "harness", "image", "list"]
    done = subprocess.run(words, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_nobody_reads_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert list_images(writer) == (141, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        status, complaint = list_images(full.fileno())
    assert status == 69
    assert complaint == (
        "fpr-harness: standard output: No space left on device\n"
        "What to do: free space on the disk\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_break_nothing(tmp_path: Path, closed: str) -> None:
    """Otherwise results.jsonl would be opened as standard output, and the table written into it."""
    qemu = make_dead_qemu(tmp_path)
    results = tmp_path / "results"
    words = f"{sys.executable} -m harness run reclaim-basic --accel tcg --qemu {qemu}"
    ended = subprocess.run(
        ["sh", "-c", f"{words} --results {results} {closed}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )
    assert ended.returncode == 69
    assert "Traceback" not in ended.stderr
    events = (results / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith('{"run": "reclaim-basic"') for line in events)
    assert (results / "summary.json").exists()


@pytest.mark.parametrize("name", ["r\u00e9sultats", os.fsdecode(b"r\xe9sultats")])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_results_of_any_name(tmp_path: Path, name: str, locale: str) -> None:
    qemu = make_dead_qemu(tmp_path)
    results = tmp_path / name
    words = ["run", "reclaim-basic", "--accel", "tcg", "--qemu", str(qemu)]
    ended = subprocess.run(
        [sys.executable, "-m", "harness", *words, "--results", str(results)],
        capture_output=True,
        check=False,
        timeout=60.0,
        env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert ended.returncode == 69, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"bug of its own" not in ended.stdout + ended.stderr, ended.stdout
    for file in ("results.jsonl", "summary.json", "junit.xml", "reclaim-basic/harness.log"):
        assert (results / file).exists()


def test_defect_of_a_command_is_one_message_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_options: object) -> int:
        raise KeyError("column")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("harness.cli.list_command.execute", broken)
    assert main(["list"]) == 69
    said = capsys.readouterr().err
    assert "hit a bug of its own while carrying out `fpr-harness list`: KeyError" in said
    assert "Traceback" not in said
    (report,) = tmp_path.glob("**/bug-report.txt")
    assert str(report) in said
    assert "Traceback" in report.read_text(encoding="utf-8")
