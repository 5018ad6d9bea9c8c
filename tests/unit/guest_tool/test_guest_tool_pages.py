# SPDX-License-Identifier: Apache-2.0
"""`pages`, read by the harness's own reader."""

import ctypes
import mmap
import struct
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from churn_memory import (
    KPF_BUDDY,
    KPF_NOPAGE,
    NOBODY,
    PAGES,
    SECONDS,
    ChurnMemory,
    needs_page_flags,
    needs_root,
    page_flags,
    start_churn,
)
from local_guest import LocalShell
from page_rounds import decode_pages

from harness.deadline import Deadline, wait_for
from harness.errors import ObserveError
from harness.guest.page_stream import PageReader
from harness.kernel.pages import GuestState
from harness.observe.ram_layout import parse_system_ram
from harness.units import PAGE_SIZE

PFN_END = 1 << 32
"""This host plays the guest: whatever it has is believed."""


@needs_page_flags
def test_every_page_frame_has_a_state(shell: LocalShell) -> None:
    result = shell.run("fpr-guest pages", timeout=SECONDS)
    magic, version, page_bytes, pages, start, end, runs = struct.unpack_from(
        "<8sIIQQQQ", result.stdout
    )
    assert (magic, version, page_bytes) == (b"FPRPAGES", 2, PAGE_SIZE)
    assert start < end <= time.monotonic_ns()
    assert len(result.stdout) == 48 + 4 * runs
    states, flags = decode_pages(result.stdout, PFN_END).states, page_flags()
    assert len(states) == len(flags) == pages
    assert (states[flags & KPF_NOPAGE != 0] == GuestState.NO_PAGE).all()
    free = (states == GuestState.FREE) | (states == GuestState.REPORTED)
    agreed = np.count_nonzero(free == (flags & KPF_BUDDY != 0)) / pages
    assert agreed > 0.9, "the two looks are moments apart, not worlds"
    assert not (states == GuestState.HELD).any()


def _pfns(memory: mmap.mmap) -> npt.NDArray[np.int64]:
    """The page frames behind a mapping of this process, which it must have touched."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE_SIZE * 8)
        entries = np.frombuffer(pagemap.read(len(memory) // PAGE_SIZE * 8), dtype="<u8")
    return (entries & np.uint64((1 << 55) - 1)).astype(np.int64)


@needs_page_flags
@pytest.mark.parametrize("kind", ["anonymous", "file"])
def test_what_somebody_has_written_has_content(
    shell: LocalShell, kind: str, tmp_path: Path
) -> None:
    size = 256 * PAGE_SIZE
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(size)
        memory = mmap.mmap(-1 if kind == "anonymous" else file.fileno(), size)
        memory[:] = b"x" * size
        states = decode_pages(shell.run("fpr-guest pages", timeout=SECONDS).stdout, PFN_END).states
        assert (states[_pfns(memory)] == GuestState.CONTENT).all()


@needs_page_flags
def test_what_is_no_memory_is_no_page_whatever_its_flags(shell: LocalShell) -> None:
    """From 6.16 on a hole has no flag at all, and a kernel's own page has none either; 5.10 calls
    the rest of a section that is cut short reserved."""
    states = decode_pages(shell.run("fpr-guest pages", timeout=SECONDS).stdout, PFN_END).states
    bare = page_flags() == 0
    ram = np.zeros(len(states), np.bool_)
    for start, end in parse_system_ram(Path("/proc/iomem").read_text()):
        ram[start // PAGE_SIZE : -(-end // PAGE_SIZE)] = True
    assert (states[~ram] == GuestState.NO_PAGE).all()
    assert np.count_nonzero(states[bare & ram] == GuestState.NO_PAGE) == 0
    assert np.count_nonzero(bare & ram), "the kernel has pages of its own"


@needs_page_flags
def test_another_round_sees_what_has_changed(shell: LocalShell) -> None:
    """The pages of the named process are HELD as long as it has them."""
    with start_churn(shell) as churn, PageReader(shell, PFN_END, held_by=[churn.pid]) as reader:
        pfns = ChurnMemory(churn.pid, seed=7).pfns()
        first = reader.read()
        churn.free_all()
        second = reader.read()
    assert (first.states[pfns] == GuestState.HELD).all()
    held = np.count_nonzero(first.states == GuestState.HELD)
    assert PAGES <= held < PAGES + 1024, "what else the process has is little"
    assert np.count_nonzero(second.states == GuestState.HELD) == pytest.approx(
        held - PAGES, abs=256
    )
    assert len(first.states) == len(second.states)
    assert first.end_ns <= second.start_ns


@needs_page_flags
def test_pages_of_several_processes_are_held(shell: LocalShell) -> None:
    with (
        start_churn(shell) as one,
        start_churn(shell, seed=9) as two,
        PageReader(shell, PFN_END, held_by=[one.pid, two.pid]) as reader,
    ):
        states = reader.read().states
        for pid, seed in ((one.pid, 7), (two.pid, 9)):
            assert (states[ChurnMemory(pid, seed).pfns()] == GuestState.HELD).all()


@needs_page_flags
def test_a_named_process_that_is_gone_is_told(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        pid = churn.pid
    with (
        PageReader(shell, PFN_END, held_by=[pid]) as reader,
        pytest.raises(ObserveError, match=rf"status 1.*open /proc/{pid}/pagemap: No such file"),
    ):
        reader.read()


@needs_root
def test_pages_are_for_root_only(tool: Path) -> None:
    with (
        PageReader(LocalShell(tool, NOBODY), PFN_END) as reader,
        pytest.raises(ObserveError, match=r"status 1.*/proc/kpageflags: Permission denied"),
    ):
        reader.read()


def _nice(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])


@needs_page_flags
@needs_root
def test_a_patient_round_lets_other_work_go_first(shell: LocalShell) -> None:
    process = shell.start("fpr-guest pages --kinds --patient 60")
    try:
        nice = Deadline(SECONDS, "the tool to be nice")
        wait_for(lambda: _nice(process.pid) == 19 or None, nice, interval=0.001)
    finally:
        process.kill()
        process.close()
    result = shell.run("fpr-guest pages --kinds --patient 61", timeout=SECONDS, check=False)
    assert (result.status, b"up to 60 seconds" in result.stderr) == (2, True)
