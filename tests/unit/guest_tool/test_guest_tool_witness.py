# SPDX-License-Identifier: Apache-2.0
"""`witness`, spoken to by its own client. Here there is no kernel text to read in a container."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from churn_memory import SECONDS, ChurnMemory
from local_guest import LocalProcess, LocalShell

from harness.guest.witness_client import SEED, WitnessSession
from harness.image.initramfs import FILE_SUMS
from harness.units import MIB, PAGE_SIZE

SIZE = 4 * MIB


class Listing(LocalShell):
    """A guest whose list of files lies elsewhere."""

    def __init__(self, shell: LocalShell, sums: Path) -> None:
        self._shell, self._sums = shell, sums

    def start(self, command: str) -> LocalProcess:
        return self._shell.start(command.replace(f"/{FILE_SUMS}", str(self._sums)))


@pytest.fixture
def some_file(tmp_path: Path) -> Path:
    path = tmp_path / "a program"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def witness(shell: LocalShell, tmp_path: Path, some_file: Path) -> Iterator[WitnessSession]:
    data, sums = some_file.read_bytes(), tmp_path / "sums"
    sums.write_text(f"{zlib.crc32(data):08x} {len(data)} {some_file}\n")
    with WitnessSession.start(Listing(shell, sums), size=SIZE) as session:
        yield session


def test_nothing_is_lost_in_a_sound_guest(witness: WitnessSession) -> None:
    seen = witness.verify(SECONDS)
    assert (seen.lost_pages, seen.details, seen.complete) == (0, (), True)
    assert (seen.canary.checked_bytes, seen.files) == (SIZE, 1)


def test_a_lost_page_of_the_canary_is_told(witness: WitnessSession) -> None:
    memory = ChurnMemory(witness.pid, seed=SEED)
    memory.set_word(9, 0, 0)
    seen = witness.verify(SECONDS)
    assert seen.lost_pages == 1
    assert seen.details[0].startswith("mismatch page=9 ")


@pytest.mark.parametrize("at", [0, PAGE_SIZE * 60])
def test_a_file_that_has_lost_a_page_is_told_by_name(
    witness: WitnessSession, some_file: Path, at: int
) -> None:
    data = bytearray(some_file.read_bytes())
    data[at : at + PAGE_SIZE] = bytes(len(data[at : at + PAGE_SIZE]))
    some_file.write_bytes(data)
    seen = witness.verify(SECONDS)
    assert (seen.lost_pages, seen.files_lost) == (1, 1)
    assert f"path={some_file} " in seen.details[0]


def test_a_file_that_is_gone_or_shorter_is_no_whole_file(
    witness: WitnessSession, some_file: Path
) -> None:
    some_file.write_bytes(some_file.read_bytes()[:-1])
    assert witness.verify(SECONDS).files_lost == 1
    some_file.unlink()
    assert witness.verify(SECONDS).files_lost == 1


def test_what_a_witness_cannot_look_at_is_absent_and_not_sound(
    shell: LocalShell, tmp_path: Path
) -> None:
    with WitnessSession.start(Listing(shell, tmp_path / "none"), size=SIZE) as session:
        seen = session.verify(SECONDS)
    assert seen.files is None
    if not Path("/proc/kcore").exists():
        assert seen.text_pages is None
