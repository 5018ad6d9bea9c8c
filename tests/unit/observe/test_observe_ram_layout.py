# SPDX-License-Identifier: Apache-2.0
"""Where guest pages lie in QEMU, read from answers of a real QEMU (see tests/data/observe)."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ObserveError
from harness.observe.ram_layout import (
    RamLayout,
    parse_flat_view,
    parse_host_address,
    parse_ram_blocks,
    parse_system_ram,
)
from harness.units import GIB, MIB, PAGE_SIZE

DATA = Path(__file__).parents[2] / "data" / "observe"


class RecordedMonitor:
    """Answers with what a real QEMU answered; anything it was not asked then fails."""

    def __init__(self, name: str) -> None:
        self.answers = json.loads((DATA / f"layout-{name}.json").read_text())["answers"]

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        assert timeout > 0
        assert arguments is None
        return self.answers[command]

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        assert timeout > 0
        return str(self.answers[command])


def ranges(name: str) -> list[tuple[str, int, int, int]]:
    """(block, guest-physical start, end, offset in the block), all in bytes."""
    return [
        (piece.block, piece.pfn_start * PAGE_SIZE, piece.pfn_end * PAGE_SIZE, piece.block_offset)
        for piece in RamLayout.read(RecordedMonitor(name)).pieces
    ]


def test_a_small_guest_is_one_block_without_the_vga_window_and_the_firmware() -> None:
    assert ranges("pc-1g-vga") == [
        ("pc.ram", 0, 0xA0000, 0),
        ("pc.ram", MIB, GIB, MIB),
    ]


def test_memory_above_3_gib_of_a_pc_continues_above_4_gib() -> None:
    assert ranges("pc-6g") == [
        ("pc.ram", 0, 0xC0000, 0),
        ("pc.ram", MIB, 3 * GIB, MIB),
        ("pc.ram", 4 * GIB, 7 * GIB, 3 * GIB),
    ]


def test_every_numa_node_has_its_own_block() -> None:
    assert ranges("pc-6g-numa") == [
        ("m0", 0, 0xC0000, 0),
        ("m0", MIB, 3 * GIB, MIB),
        ("m1", 4 * GIB, 7 * GIB, 0),
    ]


def test_the_hole_of_a_q35_begins_at_2_gib() -> None:
    assert ranges("q35-6g-memfd") == [
        ("m0", 0, 0xA0000, 0),
        ("m0", MIB, 2 * GIB, MIB),
        ("m0", 4 * GIB, 8 * GIB, 2 * GIB),
    ]


def test_hot_plugged_memory_is_guest_ram_too() -> None:
    assert ranges("pc-hotplug")[2:] == [
        ("vm0", 4 * GIB, 5 * GIB, 0),
        ("d0", 5 * GIB, 5 * GIB + 256 * MIB, 0),
    ]


def test_the_memory_of_virtio_pmem_is_a_disk() -> None:
    """`query-memdev` lists it, and `info ramblock` has no name for it."""
    monitor = RecordedMonitor("pc-hotplug")
    lines = monitor.answers["info ramblock"].splitlines(keepends=True)
    nameless = (re.sub(r"\S*\bd0 ", lambda name: " " * len(name[0]), line) for line in lines)
    monitor.answers["info ramblock"] = "".join(nameless)
    assert "d0" not in {block.name for block in RamLayout.read(monitor).blocks}
    assert "d0" in {block.name for block in RamLayout.read(RecordedMonitor("pc-hotplug")).blocks}


def test_guest_ram_that_is_not_listed_is_never_left_out() -> None:
    monitor = RecordedMonitor("pc-hotplug")
    lines = monitor.answers["info ramblock"].splitlines(keepends=True)
    monitor.answers["info ramblock"] = "".join(line for line in lines if " d0 " not in line)
    with pytest.raises(ObserveError, match=r"does not list the blocks \['d0'\]"):
        RamLayout.read(monitor)


@pytest.mark.parametrize("name", ["pc-1g-vga", "pc-6g", "pc-6g-numa", "q35-6g-memfd", "pc-hotplug"])
def test_host_addresses_are_those_qemu_gave(name: str) -> None:
    monitor = RecordedMonitor(name)
    layout = RamLayout.read(monitor)
    for piece in layout.pieces:
        answer = monitor.human(f"gpa2hva {piece.pfn_start * PAGE_SIZE:#x}")
        assert f"({piece.block}) is {piece.hva:#x}" in answer
        assert layout.block(piece.block).hva == piece.hva - piece.block_offset


def test_blocks_have_their_size_and_page_size() -> None:
    layout = RamLayout.read(RecordedMonitor("pc-6g-numa"))
    assert [(b.name, b.size, b.page_size) for b in layout.blocks] == [
        ("m0", 3 * GIB, PAGE_SIZE),
        ("m1", 3 * GIB, PAGE_SIZE),
    ]
    huge = parse_ram_blocks(
        "  Block Name    PSize              Offset               Used              Total"
        "                HVA  RO\n"
        "                      m0    2 MiB  0x0000000000000000 0x0000000040000000"
        " 0x0000000040000000 0x00007f3c00000000  rw\n"
    )
    assert huge == {"m0": (GIB, 2 * MIB)}


def test_the_accelerators_name_after_a_region_is_not_part_of_the_blocks_name() -> None:
    (region,) = parse_flat_view(
        'FlatView #0\n AS "memory", root: system\n Root memory region: system\n'
        "  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000 KVM\n"
    )
    assert (region.block, region.offset) == ("pc.ram", MIB)


def test_the_accelerator_is_named_once_for_each_address_space() -> None:
    """A microvm's memory is the view of KVM's system management mode, too."""
    text = (DATA / "mtree-microvm-kvm.txt").read_text(encoding="ascii")
    regions = [(r.block, r.start, r.offset) for r in parse_flat_view(text)]
    assert regions[0] == ("m0", 0, 0)
    assert regions[2] == ("m0", MIB, MIB)


def test_a_qemu_that_contradicts_itself_is_an_error() -> None:
    monitor = RecordedMonitor("pc-6g-numa")
    monitor.answers["gpa2hva 0x100000"] = monitor.answers["gpa2hva 0x100000000"]
    with pytest.raises(ObserveError, match="contradicts itself"):
        RamLayout.read(monitor)


IOMEM = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000f0000-000fffff : System ROM
00100000-bffdffff : System RAM
  01000000-01e00e90 : Kernel code
bffe0000-bfffffff : Reserved
fec00000-fec003ff : IOAPIC 0
100000000-1bfffffff : System RAM
"""


def test_the_guests_own_map_of_its_memory_is_covered() -> None:
    system_ram = parse_system_ram(IOMEM)
    assert RamLayout.read(RecordedMonitor("pc-6g")).uncovered(system_ram) == ()
    assert RamLayout.read(RecordedMonitor("pc-6g-numa")).uncovered(system_ram) == ()


def test_what_the_guest_has_and_qemu_has_not_is_named() -> None:
    missing = RamLayout.read(RecordedMonitor("q35-6g-memfd")).uncovered(parse_system_ram(IOMEM))
    assert missing == ((2 * GIB, 0xBFFE0000),)


def test_addresses_hidden_from_an_unprivileged_reader_are_an_error() -> None:
    with pytest.raises(ObserveError, match="no System RAM"):
        parse_system_ram("00000000-00000000 : System RAM\n")


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "FlatView #0\n",
            ' AS "memory", root: system\n',
            "  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000\n",
            "  pc.ram    4 KiB  0x0000000000000000 0x0000000040000000 0x0000000040000000\n",
            "Host virtual address for 0x0 (pc.ram) is 0x7fb20fe00000\n",
            "00001000-0009fbff : System RAM\n",
        ]
    )
    | st.text(),
    max_size=6,
).map("".join)


@settings(deadline=None)
@given(FRAGMENTS)
def test_no_text_makes_the_parsers_fail_in_another_way(text: str) -> None:
    for parser in (parse_flat_view, parse_ram_blocks, parse_host_address, parse_system_ram):
        with suppress(ObserveError):
            parser(text)
