# SPDX-License-Identifier: Apache-2.0
"""A log is read once, byte by byte; one that was deleted, replaced or cut is an error."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ObserveError
from harness.growing_file import GrowingFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def test_each_byte_is_read_once(path: Path) -> None:
    file = GrowingFile(path, "the log")
    assert file.read() == b""  # not there yet
    path.write_bytes(b"one ")
    assert file.read() == b"one "
    assert file.read() == b""
    with path.open("ab") as log:
        log.write(b"two three")
    assert file.read(3) == b"two"
    assert file.read() == b" three"


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes() + b"more")
    other.replace(path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "was deleted"),
        (lambda path: path.write_bytes(b""), "shrank from 300 to 0 bytes"),
        (lambda path: path.write_bytes(b"y" * 400), "was overwritten"),
        (_replace, "was replaced"),
    ],
)
def test_what_is_lost_is_told(path: Path, harm: Callable[[Path], object], words: str) -> None:
    path.write_bytes(b"x" * 300)
    file = GrowingFile(path, "the log")
    file.read()
    harm(path)
    for _ in range(2):  # it does not come back by asking again
        with pytest.raises(ObserveError, match=words) as caught:
            file.read()
    assert caught.value.evidence == (path,)
