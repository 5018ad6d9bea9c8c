# SPDX-License-Identifier: Apache-2.0
"""Which page frames lie in memory blocks that the guest has put offline."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_guest import FakeGuest

from harness.errors import ObserveError
from harness.guest.memory_blocks import OFFLINE_SCRIPT, offline_pages, parse_offline

BLOCK = 32768
"""Page frames of a memory block of 128 MiB."""


def test_blocks_are_named_by_their_number(guest: FakeGuest) -> None:
    guest.vm.says["block_size_bytes"] = "8000000\nmemory5\nmemory2\n"
    found = offline_pages(guest.vm.shell, 6 * BLOCK)
    assert np.flatnonzero(np.diff(found.astype(int))).tolist() == [
        2 * BLOCK - 1,
        3 * BLOCK - 1,
        5 * BLOCK - 1,
    ]


@pytest.mark.parametrize("says", ["", "8000000\n"], ids=["no hotplug", "all online"])
def test_none_is_offline(guest: FakeGuest, says: str) -> None:
    guest.vm.says["block_size_bytes"] = says
    assert not offline_pages(guest.vm.shell, BLOCK).any()


def test_a_block_beyond_the_guests_list_is_no_page_of_it(guest: FakeGuest) -> None:
    guest.vm.says["block_size_bytes"] = "8000000\nmemory32\n"
    assert not offline_pages(guest.vm.shell, BLOCK).any()


@pytest.mark.parametrize("says", ["hello\n", "8000000\n..\n", "8000000\nmemory-1\n"])
def test_what_no_kernel_says_is_refused(guest: FakeGuest, says: str) -> None:
    guest.vm.says["block_size_bytes"] = says
    with pytest.raises(ObserveError, match="memory blocks cannot be read"):
        offline_pages(guest.vm.shell, BLOCK)


@pytest.mark.parametrize("shell", [["sh", "-u"], ["bash", "-u"]], ids=["sh", "bash"])
def test_the_guests_shell_names_them(tmp_path: Path, shell: list[str]) -> None:
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    for block, state in {
        "memory0": "online",
        "memory7": "offline",
        "memory8": "going-offline",
    }.items():
        (tmp_path / block).mkdir()
        (tmp_path / block / "state").write_text(f"{state}\n")
    (tmp_path / "memory9").mkdir()  # just removed

    def said(directory: Path) -> tuple[range, ...]:
        script = OFFLINE_SCRIPT.replace("/sys/devices/system/memory", str(directory))
        return parse_offline(subprocess.check_output([*shell, "-c", script], text=True))

    assert said(tmp_path) == (range(7 * BLOCK, 8 * BLOCK),)
    assert said(tmp_path / "without") == ()
