# SPDX-License-Identifier: Apache-2.0
"""Which page frames lie in memory blocks that the guest has put offline."""

import numpy as np
import pytest
from fake_guest import FakeGuest

from harness.errors import ObserveError
from harness.guest.memory_blocks import offline_pages

BLOCK = 32768
"""Page frames of a memory block of 128 MiB."""


def test_blocks_are_named_by_their_number(guest: FakeGuest) -> None:
    guest.vm.says["block_size_bytes"] = "8000000\nmemory5/state\nmemory2/state\n"
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
    guest.vm.says["block_size_bytes"] = "8000000\nmemory32/state\n"
    assert not offline_pages(guest.vm.shell, BLOCK).any()


@pytest.mark.parametrize("says", ["hello\n", "8000000\n../state\n", "8000000\nmemory-1/state\n"])
def test_what_no_kernel_says_is_refused(guest: FakeGuest, says: str) -> None:
    guest.vm.says["block_size_bytes"] = says
    with pytest.raises(ObserveError, match="memory blocks cannot be read"):
        offline_pages(guest.vm.shell, BLOCK)
