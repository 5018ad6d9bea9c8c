# SPDX-License-Identifier: Apache-2.0
"""What the host holds of each page, proved against a process whose every page is known."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from guest_ram import GuestRamProcess

from harness.errors import ObserveError
from harness.kernel.pages import HostState, StateArray
from harness.observe import page_walk
from harness.observe import residency as residency_module
from harness.observe.mapping import HostMappingReader
from harness.observe.page_walk import ScanSupport, scan_support
from harness.observe.residency import HostResidency

PAGES = 6000

ABSENT, RESIDENT, ZERO, UNKNOWN = (
    int(state)
    for state in (HostState.ABSENT, HostState.RESIDENT, HostState.ZERO, HostState.UNKNOWN)
)


@pytest.fixture(params=[ScanSupport.FULL, ScanSupport.ZERO_PAGE, ScanSupport.NONE])
def support(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ScanSupport:
    """Both ways to ask the kernel."""
    wanted: ScanSupport = request.param
    if wanted is ScanSupport.FULL and scan_support() is ScanSupport.NONE:
        pytest.skip("this kernel has no PAGEMAP_SCAN (it came with Linux 6.7)")
    monkeypatch.setattr(residency_module, "scan_support", lambda: wanted)
    return wanted


def by_block_page(states: StateArray) -> StateArray:
    """Drop the hole of the test layout: index = page in the block."""
    assert (states[16:1016] == UNKNOWN).all(), "no RAM backs the hole"
    return np.delete(states, np.s_[16:1016])


@pytest.mark.usefixtures("support")
def test_every_page_is_told_exactly() -> None:
    """Touch every third page, only read others, give some back."""
    page = np.arange(PAGES)
    with GuestRamProcess(PAGES, "small-pages") as child:
        child.do("write(range(0, pages, 3))")
        child.do("read(range(1, pages, 6))")
        child.do("advise(300, 600, mmap.MADV_DONTNEED)")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
    expected = np.full(PAGES, ABSENT)
    expected[page % 3 == 0] = RESIDENT
    expected[page % 6 == 1] = ZERO
    expected[300:900] = ABSENT
    assert np.array_equal(states, expected)


@pytest.mark.usefixtures("support")
def test_a_large_range_is_put_together_from_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_walk, "_REGIONS", 7)
    monkeypatch.setattr(page_walk, "_PAGEMAP_CHUNK", 8 * 100)
    page = np.arange(PAGES)
    with GuestRamProcess(PAGES, "small-pages") as child:
        child.do("write(range(5, pages, 7))")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
    assert np.array_equal(states == RESIDENT, page % 7 == 5)


@pytest.mark.parametrize("support", [ScanSupport.NONE], indirect=True)
@pytest.mark.usefixtures("support")
def test_pages_that_somebody_else_maps_as_well_cannot_be_told_from_zero_pages() -> None:
    """A fork stands for KSM: such pages count in Rss, so they are no zero pages."""
    with GuestRamProcess(PAGES, "small-pages") as child:
        child.do("write(range(0, 1000))")
        child.do("read(range(2000, 2500))")
        child.do(
            "os.fork() or (libc.prctl(1, 9), __import__('signal').pause())  # PR_SET_PDEATHSIG"
        )
        child.do("write(range(0, 900))")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
    assert (states[:900] == RESIDENT).all()
    assert (states[900:1000] == UNKNOWN).all()
    assert (states[2000:2500] == UNKNOWN).all()
    assert (states[2500:] == ABSENT).all()


def test_huge_pages_are_resident_as_a_whole_and_the_huge_zero_page_is_not(
    support: ScanSupport,
) -> None:
    with GuestRamProcess(4 * 512, "huge-pages") as child:
        child.do("write([0])")
        child.do("read([512])")
        child.do("write([1024])")
        child.do("advise(1100, 50, mmap.MADV_DONTNEED)")
        huge = HostMappingReader(child.pid, child.layout).read().anon_huge
        if huge == 0:
            pytest.skip("this host gives no transparent huge pages")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
    assert (states[:512] == RESIDENT).all()
    if support is not ScanSupport.FULL or scan_support() is ScanSupport.FULL:
        assert (states[512:1024] == ZERO).all()
    assert (states[1024:1100] == RESIDENT).all()
    assert (states[1100:1150] == ABSENT).all(), "a hole in a split huge page"
    assert (states[1150:1536] == RESIDENT).all()
    assert (states[1536:] == ABSENT).all()


@pytest.mark.usefixtures("support")
def test_a_file_keeps_pages_that_nobody_maps() -> None:
    """MADV_DONTNEED empties the mapping of a memfd, not the memfd; only a hole does."""
    with GuestRamProcess(PAGES, "memfd") as child:
        child.do("write(range(0, 1000))")
        child.do("advise(0, 1000, mmap.MADV_DONTNEED)")
        child.do("advise(200, 100, 9)  # MADV_REMOVE punches a hole")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
        mapping = HostMappingReader(child.pid, child.layout).read()
    expected = np.full(PAGES, ABSENT)
    expected[:1000] = RESIDENT
    expected[200:300] = ABSENT
    assert np.array_equal(states, expected)
    assert mapping.rss == 0
    assert mapping.file_blocks == 900 * 4096


@pytest.mark.parametrize("kind", ["memfd", "file"])
@pytest.mark.usefixtures("support")
def test_a_shared_file_counts_by_what_it_keeps_and_not_by_what_is_mapped(kind: str) -> None:
    """A migration's destination reads every page: a memfd keeps what was read, a file does not."""
    with GuestRamProcess(PAGES, kind) as child:
        child.do("write(range(0, 1000))")
        child.do("read(range(2000, 3000))")
        states = by_block_page(HostResidency(child.pid, child.layout).read())
        mapping = HostMappingReader(child.pid, child.layout).read()
    assert mapping.rss >= 2000 * 4096
    assert (states[:1000] == RESIDENT).all()
    assert np.count_nonzero(states == RESIDENT) * 4096 == mapping.file_blocks


@pytest.mark.usefixtures("support")
def test_a_process_that_has_ended_is_an_error_and_not_an_empty_guest() -> None:
    child = GuestRamProcess(PAGES, "small-pages")
    residency = HostResidency(child.pid, child.layout)
    child.end()
    with pytest.raises(ObserveError, match=f"cannot read the memory map of process {child.pid}"):
        residency.read()


AS_NOBODY = """
import ctypes, os, sys
sys.path[:0] = sys.argv[2:]
from guest_ram import GuestRamProcess
from harness.errors import ObserveError
from harness.observe.mapping import HostMappingReader
from harness.observe.residency import HostResidency
child = GuestRamProcess(600, "small-pages", user=int(sys.argv[1]))
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after execve
child.do("write(range(0, 600, 2))")
try:
    states = HostResidency(child.pid, child.layout).read()
    print((states == 1).sum(), HostMappingReader(child.pid, child.layout).read().rss)
except ObserveError as error:
    print(error)
sys.stdout.flush()
os._exit(0)  # closes the child's input, and so ends it
"""


def look_as_nobody(owner: int) -> str:
    """What the user nobody sees of a process of user `owner`."""
    tests = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-c",
        AS_NOBODY,
        str(owner),
        str(tests / "support"),
        str(tests.parent),
    ]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=30.0
    ).stdout


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_it_needs_no_rights_but_those_of_the_same_user() -> None:
    assert look_as_nobody(65534).split() == ["300", str(300 * 4096)]


@needs_root
def test_somebody_elses_process_is_an_error_that_says_so() -> None:
    seen = look_as_nobody(65533)
    assert seen.startswith("cannot read the memory map of process")
    assert "as the user who started it" in seen
