# SPDX-License-Identifier: Apache-2.0
"""QEMU's own memory by kind, from recorded mappings and from lines in their form."""

from pathlib import Path

import numpy as np
import pytest

from harness.audit.host_side import count_blocks, parse_counters
from harness.audit.own_memory import OwnMemory, own_memory
from harness.errors import ObserveError
from harness.kernel.pages import HostState
from harness.observe.mapping import smaps_sections
from harness.units import KIB, MIB

DATA = Path(__file__).parents[2] / "data" / "audit"
SMAPS = (DATA / "smaps.txt").read_bytes()
GIB_RANGE = 1 << 30


def guest_range() -> tuple[int, int]:
    """The recorded guest's RAM: 1 GiB without a file."""
    sizes: dict[int, int] = {}
    for header, _fields in smaps_sections(SMAPS):
        start, end = int(header[1], 16), int(header[2], 16)
        sizes[start] = end
    # madvise() splits mappings; adjacent ones belong together.
    for start in sorted(sizes):
        end = sizes[start]
        while end in sizes and end - start < GIB_RANGE:
            end = sizes[end]
        if end - start == GIB_RANGE:
            return start, end
    raise AssertionError("the recorded mappings have no guest RAM")


def test_kinds_and_guest_ram_add_up_to_the_processes_rss() -> None:
    guest = guest_range()
    own = own_memory(SMAPS, [guest], [])
    everything = own_memory(SMAPS, [], [])
    counters = parse_counters((DATA / "status.txt").read_bytes())
    assert abs(everything.total - counters.rss - counters.swap) <= counters.rss / 100
    assert own.translated > MIB, "TCG translates"
    assert own.files > MIB
    assert own.heap > MIB
    assert everything.heap - own.heap > 64 * MIB, "guest RAM is anonymous"


@pytest.mark.parametrize(
    ("mapping", "kind"),
    [
        ("rw-p 00000000 00:00 0  [heap]", "heap"),
        ("rw-p 00000000 00:00 0 ", "heap"),
        ("rwxp 00000000 00:00 0 ", "translated"),
        ("r-xs 00000000 00:01 99  /memfd:tcg-jit (deleted)", "translated"),
        ("r-xp 00000000 08:01 99  /usr/bin/qemu-system-x86_64", "files"),
        ("rw-s 00000000 00:01 99  /dev/shm/ivshmem", "shared"),
        ("rw-s 00000000 00:01 99  /memfd:memory-backend-memfd (deleted)", "shared"),
        ("rw-s 00000000 00:0e 99  anon_inode:[vfio-device]", "devices"),
        ("rw-s 00000000 00:06 99  /dev/kvm", "devices"),
    ],
)
def test_each_kind_of_mapping(mapping: str, kind: str) -> None:
    text = f"1000-3000 {mapping}\nRss:    8 kB\nSwap:   4 kB\n".encode()
    expected = dict.fromkeys(OwnMemory.__dataclass_fields__, 0) | {kind: 12 * KIB}
    assert own_memory(text, [], []) == OwnMemory(**expected)


def test_video_memory_is_the_devices_and_guest_ram_is_nobodys() -> None:
    text = b"1000-3000 rw-p 00000000 00:00 0 \nRss:    8 kB\n"
    assert own_memory(text, [], [(0x1000, 0x3000)]).devices == 8 * KIB
    assert own_memory(text, [(0x1000, 0x3000)], []).total == 0


def test_pages_of_hugetlbfs_count_although_rss_leaves_them_out() -> None:
    text = b"200000-400000 rw-s 0 00:0f 9  /dev/hugepages/x\nRss: 0 kB\nShared_Hugetlb: 2048 kB\n"
    text = text.replace(b" 0 00:0f", b" 00000000 00:0f")
    assert own_memory(text, [], []).shared == 2 * MIB


def test_a_process_without_memory_has_ended() -> None:
    with pytest.raises(ObserveError, match="has ended"):
        parse_counters(b"Name: qemu\nState: Z (zombie)\n")


def test_blocks_of_2_mib_are_counted_by_what_is_held() -> None:
    states = np.full(4 * 512 + 100, HostState.ABSENT, np.uint8)
    states[:512] = HostState.RESIDENT
    states[512:522] = HostState.SWAPPED
    states[522:600] = HostState.ZERO
    states[3 * 512 : 4 * 512] = HostState.UNKNOWN  # a hole: nobody's
    counts = count_blocks(states)
    assert (counts.full, counts.partly, counts.empty) == (1, 1, 2)
    assert counts.partly_bytes == 40 * KIB
