# SPDX-License-Identifier: Apache-2.0
"""From a guest's page to its place in QEMU's memory, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.record.address_map import AddressMap, RamPiece
from harness.units import MIB, PAGE_SIZE

HVA = 0x7FB133E00000
MAP = AddressMap(
    [
        # As with more than 3 GiB on `pc`: one block, a part of it above the hole below 4 GiB.
        RamPiece(0x100000, 0x120000, "m0", 512 * MIB, HVA + 512 * MIB),
        RamPiece(0, 0xA0, "m0", 0, HVA),
        RamPiece(0x100, 0x20000, "m0", MIB, HVA + MIB),
    ]
)


@pytest.mark.parametrize(
    ("pfn", "address"),
    [(0, HVA), (0x9F, HVA + 0x9F000), (0xA0, None), (0x100000, HVA + 512 * MIB), (0x120000, None)],
)
def test_a_page_has_a_host_address_where_qemu_has_ram_for_it(pfn: int, address: int | None) -> None:
    assert MAP.host_address(pfn) == address


@given(st.sampled_from([0, 0x9F, 0x100, 0x1FFFF, 0x100000, 0x11FFFF]), st.integers(0, 4095))
def test_any_byte_of_the_page_leads_back_to_it(pfn: int, byte: int) -> None:
    address = MAP.host_address(pfn)
    assert address is not None
    assert MAP.page_at(address + byte) == pfn


@pytest.mark.parametrize("address", [0, HVA - 1, HVA + 0xA0000, HVA + 1024 * MIB, 1 << 70])
def test_an_address_elsewhere_is_no_page(address: int) -> None:
    assert MAP.page_at(address) is None


def test_a_stretch_over_the_hole_lies_in_two_pieces_and_only_whole_pages_count() -> None:
    found = list(MAP.pages_within(HVA + 512 * MIB - 2 * PAGE_SIZE - 1, 4 * PAGE_SIZE))
    assert found == [(0x1FFFE, 0x20000), (0x100000, 0x100001)]
