# SPDX-License-Identifier: Apache-2.0
"""Logs that a guest can make grow take only so much, and say so."""

from pathlib import Path

from harness.limited_file import LimitedFile


def test_what_fits_is_written_and_the_last_line_says_that_there_is_no_more(tmp_path: Path) -> None:
    log = LimitedFile(tmp_path / "log", "w", limit=100)
    for number in range(1000):
        log.write(f"line {number}\n")
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:3] == ["line 0", "line 1", "line 2"]
    assert lines[-1] == "the limit of this log, 100B, is reached"
    assert len(lines) < 20


def test_a_full_disk_breaks_nothing() -> None:
    log = LimitedFile(Path("/dev/full"), "w")
    log.write("words\n")
    log.close()
