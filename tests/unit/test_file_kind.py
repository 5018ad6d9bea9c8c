# SPDX-License-Identifier: Apache-2.0
"""What lies at a path is named in the message that refuses it, and nothing waits for it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HarnessError, ImageError, RecordError, ScenarioFileError, UsageError
from harness.file_kind import why_not
from harness.image.kernel import find_kernel
from harness.image.modules import find_module_tree
from harness.machine.qemu_probe import find_qemu
from harness.record.bundle_read import Bundle
from harness.record.recorded_run import read_runs
from harness.yamlfile import read_document


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))


KINDS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.symlink_to("/dev/zero"), "a character device"),
    (os.mkfifo, "a FIFO"),
    (_socket, "a socket"),
    (lambda path: path.symlink_to("nowhere"), "a dangling symbolic link"),
    (lambda path: path.symlink_to(path.name), "a symbolic link that leads back to itself"),
]

READERS: list[tuple[Callable[[Path], object], type[HarnessError]]] = [
    (find_kernel, ImageError),
    (lambda path: find_module_tree(path, "6.1.0"), ImageError),
    (find_qemu, HarnessError),
    (read_runs, UsageError),
]
FILE_READERS: list[tuple[Callable[[Path], object], type[HarnessError]]] = [
    (Bundle, RecordError),
    (read_document, ScenarioFileError),
]


REFUSED = [
    *((*reader, *kind, ", not a ") for reader in READERS for kind in KINDS),
    *(
        (*reader, *kind, ", not a regular file")
        for reader in FILE_READERS
        for kind in (*KINDS[:3], (Path.mkdir, "a directory"))
    ),
]


@pytest.mark.parametrize(("read", "error", "plant", "words", "wanted"), REFUSED)
def test_what_is_of_another_kind_is_refused_by_its_name(
    tmp_path: Path,
    read: Callable[[Path], object],
    error: type[HarnessError],
    plant: Callable[[Path], object],
    words: str,
    wanted: str,
) -> None:
    plant(tmp_path / "x")
    with pytest.raises(error, match=words + wanted):
        read(tmp_path / "x")


def test_nothing_there_is_told_in_the_words_given(tmp_path: Path) -> None:
    assert why_not(tmp_path / "x", "a kernel", "no such file") == "no such file"
    (tmp_path / "file").touch()
    assert why_not(tmp_path / "file" / "x", "a kernel", "no such file") == "no such file"


def test_what_cannot_be_seen_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    assert why_not(tmp_path, "a kernel", "no such file") == "Permission denied"
