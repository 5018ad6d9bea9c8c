# SPDX-License-Identifier: Apache-2.0
"""What a stranger's results hold in place of files neither blocks nor goes on for ever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ObserveError, RecordError
from harness.record.audit_file import load_audit
from harness.record.reader import read_events
from harness.regular_file import open_regular

PLANTS: list[Callable[[Path], object]] = [
    os.mkfifo,
    Path.mkdir,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.name),
]


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"words"


@pytest.mark.parametrize("plant", PLANTS)
def test_anything_else_is_an_error_at_once(tmp_path: Path, plant: Callable[[Path], object]) -> None:
    path = tmp_path / "x"
    plant(path)
    with pytest.raises(OSError):  # noqa: PT011 - each has its own words
        open_regular(path)
    with pytest.raises(RecordError):
        list(read_events(path))
    for checksum in (None, "0" * 64):
        with pytest.raises(ObserveError):
            load_audit(path, checksum)
