# SPDX-License-Identifier: Apache-2.0
"""`churn`: the harness's own client speaks to it, so that both ends of the protocol are tried."""

import os
import re
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from churn_memory import (
    KPF_THP,
    NOBODY,
    PAGES,
    SECONDS,
    SIZE,
    ChurnMemory,
    needs_page_flags,
    needs_root,
    page_flags,
    pattern,
    present,
    proof,
    start_churn,
)
from local_guest import LocalShell

from harness.deadline import Deadline, wait_for
from harness.errors import GuestError, ToolCrashedError
from harness.guest.churn_client import Hugepages
from harness.guest.held_pages import Verified
from harness.units import PAGE_SIZE


@pytest.mark.parametrize("hugepages", ["default", "never", "always"])
def test_churn_fills_holds_and_verifies(shell: LocalShell, hugepages: Hugepages) -> None:
    if hugepages != "default" and not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    with start_churn(shell, hugepages=hugepages) as churn:
        assert churn.held == SIZE
        memory = ChurnMemory(churn.pid, seed=7)
        assert present(memory) == PAGES
        for page, word in ((0, 0), (0, 511), (PAGES // 2, 17), (PAGES - 1, 511)):
            assert memory.word(page, word) == pattern(7, page, word)
        verified = churn.verify(SECONDS)
    assert verified == Verified(
        checked_bytes=SIZE, held_bytes=SIZE, mismatched_pages=0, damaged=0, details=()
    )


@pytest.mark.parametrize(("page", "word"), [(0, 0), (1023, 511), (1024, 3), (PAGES - 1, 511)])
def test_one_changed_word_is_found(shell: LocalShell, page: int, word: int) -> None:
    process = shell.start(f"fpr-guest churn --bytes {SIZE} --seed 7")
    with process:
        pid = int(re.findall(r" pid=(\d+) ", process.read_line(SECONDS))[0])
        memory = ChurnMemory(pid, seed=7)
        memory.set_word(page, word, 0xBAD)
        process.write(b"verify\n")
        mismatch, verified = process.read_line(SECONDS), process.read_line(SECONDS)
        process.write(b"exit\n")
        result = process.wait(SECONDS)
    expected = pattern(7, page, word)
    assert mismatch.startswith(f"mismatch page={page} pfn=0x")
    assert f" offset={word * 8} expected={expected:#018x} found={0xBAD:#018x} " in mismatch
    assert f"verified bytes={SIZE} held_bytes={SIZE} mismatched_pages=1 " in verified
    assert result.status == 3, "a mismatch is in the exit status too"


# What the tool knows of its pages lies in the guest's memory as the pages do.
ENTRIES = PAGE_SIZE // 16
"""Of the ledger, in a page of it."""


@pytest.mark.parametrize("copy", [0, 1])
def test_a_lost_page_of_the_ledger_hides_no_page_and_is_told(shell: LocalShell, copy: int) -> None:
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        memory.lose(memory.ledger(copy) + PAGE_SIZE, PAGE_SIZE)
        memory.set_word(ENTRIES + 3, 9, 0)
        verified = churn.verify(SECONDS)
    assert (verified.checked_bytes, verified.held_bytes) == (SIZE, SIZE)
    assert (verified.mismatched_pages, verified.damaged) == (1, ENTRIES)
    assert "own memory is damaged" in verified.details[-1]


def test_with_its_whole_ledger_zeroed_the_tool_verifies_nothing_and_says_so(
    shell: LocalShell,
) -> None:
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        for address in [memory.ledger(0), memory.ledger(1)]:
            memory.lose(address, PAGES * 16)
        verified = churn.verify(SECONDS)
        assert (verified.checked_bytes, verified.held_bytes) == (0, SIZE)
        assert (verified.mismatched_pages, verified.damaged) == (0, PAGES)


def test_copies_that_contradict_each_other_prove_nothing(shell: LocalShell) -> None:
    """As after a page was replaced by what it was before."""
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        memory.write(memory.ledger(1), struct.pack("<QQ", 0, proof(0, 0, 1)))
        verified = churn.verify(SECONDS)
    assert (verified.checked_bytes, verified.damaged) == (SIZE - PAGE_SIZE, 1)


def test_damage_is_in_the_exit_status_too(shell: LocalShell) -> None:
    with shell.start(f"fpr-guest churn --bytes {SIZE} --seed 7") as process:
        pid = int(re.findall(r" pid=(\d+) ", process.read_line(SECONDS))[0])
        memory = ChurnMemory(pid, seed=7)
        memory.lose(memory.ledger(0), 16)
        process.write(b"verify\nfree all\nverify\nexit\n")
        assert process.wait(SECONDS).status == 3


def test_a_lost_page_of_the_tools_constants_is_told(shell: LocalShell) -> None:
    """The tables for unwinding, which come last, are none that it needs."""
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        ((_start, code_end),) = memory.mappings("r-xp")
        end = dict(memory.mappings("r--p"))[code_end]
        memory.lose(end - 2 * PAGE_SIZE, PAGE_SIZE)
        verified = churn.verify(SECONDS)
    assert (verified.checked_bytes, verified.damaged) == (SIZE, 1)


def test_a_tool_whose_code_is_lost_has_crashed(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        for start, end in memory.mappings("r-xp"):
            memory.lose(start, end - start)
        with pytest.raises(ToolCrashedError, match=r"own code or data is lost: .*killed by sig"):
            churn.verify(SECONDS)


def test_every_damaged_page_is_counted_though_only_some_are_told(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        for page in range(100):
            memory.set_word(page, page, 0)
        verified = churn.verify(SECONDS)
        assert verified.mismatched_pages == 100
        assert len(verified.details) == 16
        churn.free_all()
        assert churn.verify(SECONDS).mismatched_pages == 0


def test_freeing_all_gives_back_every_page_and_a_refill_takes_them_again(
    shell: LocalShell,
) -> None:
    with start_churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        freed = churn.free_all()
        assert (freed.bytes, freed.held_bytes, churn.held) == (SIZE, 0, 0)
        assert present(memory) == 0
        assert churn.verify(SECONDS).checked_bytes == 0
        churn.refill(seed=8, timeout=SECONDS)
        assert (churn.held, present(memory)) == (SIZE, PAGES)
        assert memory.word(5, 6) == pattern(8, 5, 6)
        assert churn.verify(SECONDS).mismatched_pages == 0


def test_freeing_nothing_frees_nothing(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        churn.free_all()
        assert churn.free_all().bytes == 0
        assert churn.free_blocks(order=0, stride=1, offset=0).bytes == 0


@needs_root
@pytest.mark.parametrize(
    ("order", "stride", "offset", "hugepages"),
    [
        (0, 2, 0, "never"),
        (0, 1, 0, "never"),
        (1, 3, 2, "never"),
        (3, 2, 1, "never"),
        (3, 2, 1, "always"),
        (9, 2, 0, "always"),
        (20, 1, 0, "never"),
    ],
)
def test_blocks_are_freed_by_their_physical_number(
    shell: LocalShell, order: int, stride: int, offset: int, hugepages: Hugepages
) -> None:
    """Only blocks that are held wholly; the rest keeps its pattern, and a refill fills the gaps."""
    with start_churn(shell, hugepages=hugepages) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        pfns = memory.pfns()
        blocks = pfns >> np.uint64(order)
        numbers, counts = np.unique(blocks, return_counts=True)
        chosen = numbers[(counts == 1 << order) & (numbers % stride == offset)]
        goes = np.isin(blocks, chosen)
        freed = churn.free_blocks(order=order, stride=stride, offset=offset)
        assert (memory.pfns() == np.where(goes, 0, pfns)).all()
        assert (freed.bytes, freed.blocks) == (goes.sum() * PAGE_SIZE, len(chosen))
        assert freed.held_bytes == churn.held == SIZE - freed.bytes
        assert churn.verify(SECONDS).checked_bytes == churn.held
        churn.refill(seed=8, timeout=SECONDS)
        verified = churn.verify(SECONDS)
        assert (verified.checked_bytes, verified.mismatched_pages) == (SIZE, 0)
        gap, kept = np.flatnonzero(goes), np.flatnonzero(~goes)
        assert all(memory.word(page, 1) == pattern(8, page, 1) for page in gap[:3].tolist())
        assert all(memory.word(page, 1) == pattern(7, page, 1) for page in kept[:3].tolist())


@needs_page_flags
def test_a_freed_part_of_a_huge_page_is_split_off_at_once(shell: LocalShell) -> None:
    """Else the kernel keeps the whole of it until it splits it, some day."""
    with start_churn(shell, hugepages="always") as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        before = memory.pfns()
        huge = (page_flags()[before] & KPF_THP) != 0
        if not huge.any():
            pytest.skip("the kernel gave no huge pages")
        churn.free_blocks(order=3, stride=2, offset=0)
        kept = memory.pfns() != 0
        halves = huge & kept
        assert halves.any()
        assert not (page_flags()[before[halves]] & KPF_THP).any()


@needs_root
def test_without_page_frame_numbers_no_block_is_known(tool: Path) -> None:
    with start_churn(LocalShell(tool, NOBODY)) as churn:
        assert churn.free_blocks(order=0, stride=1, offset=0).bytes == 0
        assert churn.verify(SECONDS).checked_bytes == SIZE


@pytest.mark.parametrize("last_words", [b"exit\n", b"", b"verify\n"])
def test_churn_ends_well_with_its_input(shell: LocalShell, last_words: bytes) -> None:
    result = shell.run(
        f"fpr-guest churn --bytes {SIZE} --seed 1", stdin=last_words, timeout=SECONDS
    )
    assert result.stdout.startswith(b"filled ")
    assert result.stderr == b""


def test_a_killed_churn_is_explained_by_its_parent(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        os.kill(churn.pid, signal.SIGKILL)
        with pytest.raises(GuestError, match=r"killed by signal 9 \(Killed\): out of memory\?"):
            churn.verify(SECONDS)


def test_a_crashed_churn_is_explained_by_its_parent(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        os.kill(churn.pid, signal.SIGBUS)
        with pytest.raises(ToolCrashedError, match=r"killed by signal 7 \(Bus error\)\n"):
            churn.verify(SECONDS)


def test_no_memory_stays_held_when_the_parent_dies(shell: LocalShell) -> None:
    with shell.start(f"fpr-guest churn --bytes {SIZE} --seed 1") as process:
        pid = int(re.findall(r" pid=(\d+) ", process.read_line(SECONDS))[0])
        assert pid != process.pid
        process.kill()
        gone = Deadline(10.0, "the child to die")
        wait_for(lambda: None if _lives(pid) else True, gone)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_churn_is_the_first_to_go_when_memory_runs_out(shell: LocalShell) -> None:
    with start_churn(shell) as churn:
        assert Path(f"/proc/{churn.pid}/oom_score_adj").read_text() == "1000\n"
