# SPDX-License-Identifier: Apache-2.0
"""What the host holds for guest RAM and nothing else of the process."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from guest_ram import GuestRamProcess
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ObserveError
from harness.kernel.pages import HostState
from harness.machine.cgroup import candidates
from harness.observe import guest_vmas
from harness.observe.guest_vmas import Mapping, parse_mappings
from harness.observe.mapping import (
    HostMappingReader,
    outside_of,
    parse_smaps,
    translation_buffers,
)
from harness.observe.residency import HostResidency
from harness.record.facts import HostMapping
from harness.units import KIB, MIB, PAGE_SIZE

DATA = Path(__file__).parents[2] / "data" / "observe"
SPLIT = (DATA / "smaps-split.txt").read_bytes()
FIRST, LAST = 0x7FF1FB400000, 0x7FF1FC400000
PAGES = 8192


def test_all_mappings_of_a_block_are_summed_and_their_neighbours_are_not() -> None:
    """The recorded block was split in three by madvise; the heap and the guards stay out."""
    sums = parse_smaps(SPLIT, ((FIRST, LAST),))
    assert sums["Size"] == 16 * MIB
    assert sums["Rss"] == sums["Anonymous"] == 8 * MIB
    assert sums["LazyFree"] == 124 * KIB


def test_what_the_process_holds_elsewhere_is_summed_apart() -> None:
    assert outside_of(SPLIT, ((FIRST, LAST),)) == 1240 * KIB
    assert outside_of(SPLIT, ()) == 1240 * KIB + 8 * MIB


def test_translation_buffers_are_known_by_their_rights() -> None:
    buffers = SPLIT.replace(b" rw-p 00000000 00:00 0 ", b" rwxp 00000000 00:00 0 ")
    assert outside_of(buffers, translation_buffers(buffers)) == 0
    assert translation_buffers(SPLIT) == ()


def test_several_blocks_are_summed() -> None:
    middle = FIRST + 8 * MIB
    assert parse_smaps(SPLIT, ((FIRST, middle), (middle, LAST)))["Rss"] == 8 * MIB
    assert parse_smaps(SPLIT, ((FIRST, middle),))["Rss"] == 4 * MIB


def test_a_mapping_that_also_holds_something_else_is_an_error() -> None:
    with pytest.raises(ObserveError, match="holds other memory besides guest RAM"):
        parse_smaps(SPLIT, ((FIRST, LAST - PAGE_SIZE),))


def test_guest_ram_that_is_not_there_is_an_error_and_not_zero() -> None:
    with pytest.raises(ObserveError, match="none of the guest-RAM mappings"):
        parse_smaps(SPLIT, ((0x1000, 0x2000),))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(SPLIT.splitlines(keepends=True)) | st.binary(), max_size=20).map(
        b"".join
    )
)
def test_no_text_makes_the_parser_fail_in_another_way(text: bytes) -> None:
    with suppress(ObserveError):
        parse_smaps(text, ((FIRST, LAST),))


def test_the_reading_follows_the_memory() -> None:
    with GuestRamProcess(PAGES, "small-pages") as child:
        reader = HostMappingReader(child.pid, child.layout)
        assert reader.read().rss == 0
        child.do("write(range(0, 4000))")
        full = reader.read()
        child.do("advise(1000, 3000, mmap.MADV_DONTNEED)")
        after = reader.read()
    assert full.rss == full.anonymous == full.held == 4000 * PAGE_SIZE
    assert after.rss == after.held == 1000 * PAGE_SIZE
    assert (after.lazyfree, after.swap, after.shmem, after.file_blocks) == (0, 0, 0, None)
    assert full.at < after.at <= time.monotonic()


def test_lazily_freed_memory_stays_in_rss_and_is_told_apart() -> None:
    with GuestRamProcess(PAGES, "small-pages") as child:
        child.do("write(range(0, 4000))")
        child.do("advise(0, 3000, mmap.MADV_FREE)")
        reading = HostMappingReader(child.pid, child.layout).read()
    assert reading.rss == 4000 * PAGE_SIZE
    # Linux lets a batch of up to 31 pages per CPU lie before it marks them.
    assert 2500 * PAGE_SIZE < reading.lazyfree <= 3000 * PAGE_SIZE


def test_a_memfd_is_charged_for_what_no_mapping_shows() -> None:
    with GuestRamProcess(PAGES, "memfd") as child:
        child.do("write(range(0, 4000))")
        reader = HostMappingReader(child.pid, child.layout)
        full = reader.read()
        child.do("advise(0, 3000, mmap.MADV_DONTNEED)")
        after = reader.read()
    assert full.shmem == full.file_blocks == 4000 * PAGE_SIZE
    assert after.rss == 1000 * PAGE_SIZE
    assert after.held == after.file_blocks == 4000 * PAGE_SIZE


def test_a_private_page_counts_once_though_its_file_keeps_another() -> None:
    """QEMU's memory-backend-memfd with share=off: each write copies a page that the memfd keeps."""
    with GuestRamProcess(PAGES, "private-memfd") as child:
        child.do("write(range(0, 4000))")
        child.do("read(range(4000, 5000))")
        reader = HostMappingReader(child.pid, child.layout)
        full, quick = reader.read(), reader.read_quick()
        states = HostResidency(child.pid, child.layout).read()
        child.do("advise(0, 3000, mmap.MADV_DONTNEED)")
        copies_dropped = reader.read()
        child.do("libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(3000 * PAGE))")
        punched = reader.read()
        child.do("libc.fallocate(fd, 3, ctypes.c_long(3500 * PAGE), ctypes.c_long(1500 * PAGE))")
        copies, quick_copies = reader.read(), reader.read_quick()
    assert (full.anonymous, full.file_blocks) == (4000 * PAGE_SIZE, 5000 * PAGE_SIZE)
    assert full.held == quick.held == 5000 * PAGE_SIZE
    assert full.twice == 4000 * PAGE_SIZE
    assert np.count_nonzero(states == HostState.RESIDENT) == 5000
    assert copies_dropped.held == full.held, "the memfd still keeps them"
    assert (punched.held, punched.twice) == (2000 * PAGE_SIZE, 1000 * PAGE_SIZE)
    assert (copies.file_blocks, copies.held) == (500 * PAGE_SIZE, 1000 * PAGE_SIZE)
    assert quick_copies.held == copies.held, "the copies are left"


def test_swapped_pages_of_a_shared_file_are_in_its_blocks() -> None:
    """Recorded on Linux 6.18: a memfd of 64 MiB, paged out with MADV_PAGEOUT."""
    swapped = HostMapping(0.0, 0, 0, 0, 0, 0, swap=64 * MIB, file_blocks=64 * MIB)
    assert (swapped.held, swapped.twice) == (64 * MIB, 0)


def test_a_file_is_found_though_its_device_is_called_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on btrfs: stat names a device of the subvolume, /proc/PID/maps that of the whole."""

    def renamed(text: bytes) -> tuple[Mapping, ...]:
        return tuple(replace(found, device=found.device + 1) for found in parse_mappings(text))

    monkeypatch.setattr(guest_vmas, "parse_mappings", renamed)
    with GuestRamProcess(PAGES, "memfd") as child:
        child.do("write(range(0, 4000))")
        child.do("advise(0, 3000, mmap.MADV_DONTNEED)")
        assert HostMappingReader(child.pid, child.layout).read().file_blocks == 4000 * PAGE_SIZE


def test_a_file_that_cannot_be_reached_is_an_error() -> None:
    with GuestRamProcess(PAGES, "memfd") as child:
        child.do("os.close(fd)")
        with pytest.raises(ObserveError, match=r"m0 is backed by /memfd:ram \(deleted\), but"):
            HostMappingReader(child.pid, child.layout)


def test_shared_memory_without_a_file_has_none() -> None:
    with GuestRamProcess(PAGES, "shared") as child:
        child.do("write(range(0, 4000))")
        reading = HostMappingReader(child.pid, child.layout).read()
    assert (reading.rss, reading.file_blocks) == (4000 * PAGE_SIZE, None)


def test_pages_that_ksm_merged_are_counted_where_the_kernel_counts_them() -> None:
    counted = Path("/proc/self/ksm_merging_pages").exists()
    with GuestRamProcess(PAGES, "small-pages") as child:
        merged = HostMappingReader(child.pid, child.layout).read().merged
    assert merged == (0 if counted else None), "nobody asked KSM to look at it"


def test_a_file_mapped_elsewhere_is_not_behind_guest_ram() -> None:
    with GuestRamProcess(PAGES, "small-pages") as child:
        child.do("other = os.memfd_create('other'); os.ftruncate(other, 1 << 20)")
        child.do("there = mmap.mmap(other, 1 << 20); there[0] = 1")
        assert HostMappingReader(child.pid, child.layout).read().file_blocks is None


KEPT = 8 * MIB
MADE_UP = f"""
KEPT, PAGE_OF_X = {KEPT}, b"x" * PAGE
CODE = {{"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC}}
kept = os.memfd_create("kept"); os.ftruncate(kept, KEPT)
def fill(memory, size): [memory.__setitem__(slice(at, at + PAGE), PAGE_OF_X) for at in
    range(0, size, PAGE)]
def append(first): [os.pwrite(kept, PAGE_OF_X, at) for at in range(first, KEPT, PAGE)]
code = mmap.mmap(-1, KEPT, **CODE)
code.madvise(mmap.MADV_DONTFORK)  # never merged with another mapping
"""


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param("append(0)", id="in a memfd that is not mapped"),
        pytest.param("there = mmap.mmap(kept, KEPT); fill(there, KEPT)", id="in one that is"),
        pytest.param(
            "there = mmap.mmap(kept, KEPT // 2); fill(there, KEPT // 2); append(KEPT // 2)",
            id="in one that is half mapped",
        ),
        pytest.param("there = mmap.mmap(-1, KEPT, **CODE); fill(there, KEPT)", id="as if code"),
    ],
)
def test_memory_kept_anywhere_else_counts_as_outside(keep: str) -> None:
    """Code that QEMU translates goes to a buffer that it has had from the start."""
    with GuestRamProcess(PAGES, "memfd") as child:
        child.do(f"exec({MADE_UP!r})")
        reader = HostMappingReader(child.pid, child.layout)
        before = reader.read().outside or 0
        child.do("write(range(0, 100)); fill(code, KEPT)")
        busy = reader.read().outside or 0
        child.do(keep)
        after = reader.read().outside or 0
    assert abs(busy - before) < MIB
    assert KEPT <= after - busy < KEPT + MIB


@pytest.mark.parametrize("kind", ["small-pages", "memfd"])
def test_the_quick_reading_agrees_with_the_exact_one(kind: str) -> None:
    """Memory the process takes elsewhere before the first reading is not counted."""
    with GuestRamProcess(PAGES, kind) as child:
        child.do("other = bytearray(20 << 20)")
        child.do("write(range(0, 1000))")
        reader = HostMappingReader(child.pid, child.layout)
        reader.read()
        for statement in (
            "write(range(1000, 8000))",
            "advise(0, 5000, mmap.MADV_DONTNEED)",
            "advise(4000, 2000, 9 if fd > 0 else mmap.MADV_DONTNEED)  # MADV_REMOVE",
        ):
            child.do(statement)
            quick, exact = reader.read_quick(), reader.read()
            assert abs(quick.rss - exact.rss) <= 128 * PAGE_SIZE
            assert abs(quick.held - exact.held) <= 128 * PAGE_SIZE


def test_a_process_that_has_ended_is_an_error() -> None:
    child = GuestRamProcess(PAGES, "small-pages")
    reader = HostMappingReader(child.pid, child.layout)
    child.end()
    for read in (reader.read, reader.read_quick):
        with pytest.raises(
            ObserveError, match=f"cannot read the memory map of process {child.pid}"
        ):
            read()
    with pytest.raises(ObserveError):
        HostMappingReader(child.pid, child.layout)


def test_a_process_that_ends_between_two_files_is_an_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without memory of its own, it is still there, and ksm_merging_pages is empty."""
    real = Path.read_text

    def emptied(path: Path, *_arguments: object, **_options: object) -> str:
        return "" if path.name == "ksm_merging_pages" else real(path)

    with GuestRamProcess(PAGES, "small-pages") as child:
        reader = HostMappingReader(child.pid, child.layout)
        monkeypatch.setattr(Path, "read_text", emptied)
        with pytest.raises(ObserveError, match="cannot read the memory map"):
            reader.read()


def test_the_control_groups_charge_is_found_in_version_2() -> None:
    groups = "0::/user.slice/session-2.scope\n"
    mounts = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    assert candidates(groups, mounts) == [
        Path("/sys/fs/cgroup/user.slice/session-2.scope/memory.current")
    ]


def test_the_control_groups_charge_is_found_in_version_1_beside_an_empty_version_2() -> None:
    groups = "9:name=systemd:/\n4:memory:/ci/job7\n0::/\n"
    mounts = (
        "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
        "35 31 0:32 /ci /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    )
    assert candidates(groups, mounts) == [
        Path("/sys/fs/cgroup/memory/job7/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/unified/memory.current"),
    ]
