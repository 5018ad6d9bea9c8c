# SPDX-License-Identifier: Apache-2.0
"""The guest tool itself, compiled as for a guest and run on this host.

The harness's own readers speak to it, so that both ends of each protocol are tried at once.
"""

import ctypes
import mmap
import os
import re
import signal
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from local_guest import LocalProcess, LocalShell

from harness.deadline import Deadline, wait_for
from harness.errors import GuestError, ObserveError, SshError
from harness.guest.churn_client import ChurnSession, Hugepages
from harness.guest.counter_stream import CounterFrame, CounterStream, read_counters
from harness.guest.page_stream import PageReader, decode_pages
from harness.image.compile import compile_c, tool_sources
from harness.kernel.pages import GuestState
from harness.observe.ram_layout import parse_system_ram
from harness.units import MIB, PAGE_SIZE

IMAGES = Path(__file__).parents[3] / "guest-images"
SIZE = 8 * MIB
PAGES = SIZE // PAGE_SIZE
SECONDS = 60.0
NOBODY = 65534
PRESENT, PFN = 1 << 63, (1 << 55) - 1
KPF_BUDDY, KPF_NOPAGE, KPF_THP = 1 << 10, 1 << 20, 1 << 22
U64 = (1 << 64) - 1


def _can_read_page_flags() -> bool:
    """Opening may be refused, and a container may hide the file."""
    try:
        with Path("/proc/kpageflags").open("rb") as file:
            return len(file.read(8)) == 8
    except OSError:
        return False


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are for root only")
needs_page_flags = pytest.mark.skipif(
    not _can_read_page_flags(), reason="/proc/kpageflags cannot be read here (root only)"
)


@pytest.fixture(scope="module")
def tool() -> Iterator[Path]:
    """The binary, where every user can run it."""
    with tempfile.TemporaryDirectory(prefix="fpr-test-") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "fpr-guest"
        compile_c(tool_sources(IMAGES), path)
        yield path


@pytest.fixture
def shell(tool: Path) -> LocalShell:
    return LocalShell(tool)


# --- usage --------------------------------------------------------------------------------------

BAD_NUMBERS = ["''", "many", "1x", "-4096", "' -4096'", "' 4096'", "+4096", "99999999999999999999"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "expected a subcommand"),
        ("dance", "expected a subcommand"),
        ("churn", "--bytes takes whole pages"),
        ("churn --bytes 4097 --seed 1", "--bytes takes whole pages"),
        ("churn --bytes 4096 --seed 0", "--seed a number other than 0"),
        ("churn --bytes 4096 --seed", "--seed needs a value"),
        ("churn --bytes 4096 --colour red", "unknown option --colour red"),
        ("churn --bytes 4096 --seed 1 --hugepages maybe", "unknown option --hugepages maybe"),
        ("counters", "expected --once, or --hz RATE"),
        ("counters --twice", "expected --once, or --hz RATE"),
        ("counters --hz 0", "--hz takes 0.01 to 1000, not '0'"),
        ("counters --hz nan", "--hz takes 0.01 to 1000, not 'nan'"),
        ("counters --hz 10x", "--hz takes 0.01 to 1000, not '10x'"),
        ("pages --held-by", "--held-by needs a value"),
        ("starve", "expected the number of a CPU"),
        ("starve x", "is not a whole number"),
        ("starve 1024", "expected the number of a CPU"),
        ("pages --touched-by 1", "unknown option --touched-by"),
        *((f"churn --seed 1 --bytes {number}", "is not a whole number") for number in BAD_NUMBERS),
        pytest.param("pages --held-by me", "is not a whole number", marks=needs_page_flags),
    ],
)
def test_wrong_usage_is_told_on_stderr(shell: LocalShell, arguments: str, words: str) -> None:
    result = shell.run(f"fpr-guest {arguments}", check=False)
    assert (result.status, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"fpr-guest: ")
    assert words in result.stderr.decode()


@pytest.mark.parametrize(
    "command",
    [
        *("dance", "verify all", "free", "free some", "refill", "refill 0", "refill x"),
        *("refill -1", "refill 5x", "refill 99999999999999999999"),
        *("free blocks 1 2", "free blocks 1 2 2", "free blocks 1 0 0", "free blocks 21 2 0"),
        *("free blocks 1 2 0 0", "free blocks -1 2 0", "free blocks 4294967297 2 0"),
        *("free blocks 1 -1 0", "verify " + "x" * 500),
    ],
)
def test_churn_refuses_a_command_it_does_not_know(shell: LocalShell, command: str) -> None:
    with shell.start(f"fpr-guest churn --bytes {SIZE} --seed 1") as churn:
        assert churn.read_line(SECONDS).startswith("filled ")
        churn.write(f"{command}\n".encode())
        result = churn.wait(SECONDS)
    assert (result.status, result.stdout) == (2, b"")
    assert f"churn: unknown command {command[:100]}" in result.stderr.decode()


@pytest.mark.parametrize("command", ["pong", "ping", "ping x", "ping " + "1" * 300])
def test_counters_refuse_a_command_they_do_not_know(shell: LocalShell, command: str) -> None:
    result = shell.run(
        "fpr-guest counters --hz 0.1", stdin=f"{command}\n".encode(), timeout=SECONDS, check=False
    )
    assert result.status == 2
    assert result.stderr.startswith(b"fpr-guest: ")


def test_more_memory_than_there_can_be_is_told_with_the_systems_words(shell: LocalShell) -> None:
    result = shell.run(f"fpr-guest churn --bytes {1 << 62} --seed 1", check=False)
    assert result.status == 1
    assert "Cannot allocate memory" in result.stderr.decode()


# --- churn --------------------------------------------------------------------------------------


def _pattern(seed: int, page: int, word: int) -> int:
    """What churn.c writes: splitmix64 of seed and page, then steps of the golden ratio."""
    golden = 0x9E3779B97F4A7C15
    x = (seed * golden + page) & U64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return ((x ^ x >> 31) + word * golden) & U64


class ChurnMemory:
    """The held memory of a churn process, looked at through /proc as a debugger would."""

    def __init__(self, pid: int, seed: int) -> None:
        self._pid = pid
        self._start = self._find(struct.pack("<Q", _pattern(seed, 0, 0)))

    def _find(self, first_word: bytes) -> int:
        """The address of page 0; the kernel may have joined its mapping with a neighbour's."""
        maps = Path(f"/proc/{self._pid}/maps").read_text()
        for start, end in re.findall(r"^(\w+)-(\w+) rw-p \w+ \S+ 0\s*$", maps, re.MULTILINE):
            for address in range(int(start, 16), int(end, 16), PAGE_SIZE):
                if self._access(address, 8) == first_word:
                    return address
        raise AssertionError(maps)

    def _access(self, address: int, size: int, change: bytes = b"") -> bytes:
        with Path(f"/proc/{self._pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address)
            data = memory.read(size)
            if change:
                memory.seek(address)
                memory.write(change)
        return data

    def word(self, page: int, word: int) -> int:
        data = self._access(self._start + page * PAGE_SIZE + word * 8, 8)
        return int.from_bytes(data, "little")

    def set_word(self, page: int, word: int, value: int) -> None:
        self._access(self._start + page * PAGE_SIZE + word * 8, 8, struct.pack("<Q", value))

    def pagemap(self) -> npt.NDArray[np.uint64]:
        with Path(f"/proc/{self._pid}/pagemap").open("rb", buffering=0) as file:
            file.seek(self._start // PAGE_SIZE * 8)
            return np.frombuffer(file.read(PAGES * 8), dtype="<u8")

    def pfns(self) -> npt.NDArray[np.uint64]:
        """0 where there is no page."""
        entries = self.pagemap()
        return np.where(entries & PRESENT, entries & PFN, 0).astype(np.uint64)


def _churn(shell: LocalShell, *, seed: int = 7, hugepages: Hugepages = "never") -> ChurnSession:
    return ChurnSession.start(shell, size=SIZE, seed=seed, hugepages=hugepages, timeout=SECONDS)


def _present(memory: ChurnMemory) -> int:
    return int(np.count_nonzero(memory.pagemap() & PRESENT))


@pytest.mark.parametrize("hugepages", ["default", "never", "always"])
def test_churn_fills_holds_and_verifies(shell: LocalShell, hugepages: Hugepages) -> None:
    if hugepages != "default" and not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    with _churn(shell, hugepages=hugepages) as churn:
        assert churn.held == SIZE
        memory = ChurnMemory(churn.pid, seed=7)
        assert _present(memory) == PAGES
        for page, word in ((0, 0), (0, 511), (PAGES // 2, 17), (PAGES - 1, 511)):
            assert memory.word(page, word) == _pattern(7, page, word)
        verified = churn.verify(SECONDS)
    assert (verified.bytes, verified.mismatched_pages, verified.mismatches) == (SIZE, 0, ())


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
    expected = _pattern(7, page, word)
    assert mismatch.startswith(f"mismatch page={page} pfn=0x")
    assert f" offset={word * 8} expected={expected:#018x} found={0xBAD:#018x} " in mismatch
    assert f"verified bytes={SIZE} mismatched_pages=1 " in verified
    assert result.status == 3, "a mismatch is in the exit status too"


def test_every_damaged_page_is_counted_though_only_some_are_told(shell: LocalShell) -> None:
    with _churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        for page in range(100):
            memory.set_word(page, page, 0)
        verified = churn.verify(SECONDS)
        assert verified.mismatched_pages == 100
        assert len(verified.mismatches) == 16
        churn.free_all()
        assert churn.verify(SECONDS).mismatched_pages == 0


def test_freeing_all_gives_back_every_page_and_a_refill_takes_them_again(
    shell: LocalShell,
) -> None:
    with _churn(shell) as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        freed = churn.free_all()
        assert (freed.bytes, freed.held_bytes, churn.held) == (SIZE, 0, 0)
        assert _present(memory) == 0
        assert churn.verify(SECONDS).bytes == 0
        churn.refill(seed=8, timeout=SECONDS)
        assert (churn.held, _present(memory)) == (SIZE, PAGES)
        assert memory.word(5, 6) == _pattern(8, 5, 6)
        assert churn.verify(SECONDS).mismatched_pages == 0


def test_freeing_nothing_frees_nothing(shell: LocalShell) -> None:
    with _churn(shell) as churn:
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
    with _churn(shell, hugepages=hugepages) as churn:
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
        assert churn.verify(SECONDS).bytes == churn.held
        churn.refill(seed=8, timeout=SECONDS)
        verified = churn.verify(SECONDS)
        assert (verified.bytes, verified.mismatched_pages) == (SIZE, 0)
        gap, kept = np.flatnonzero(goes), np.flatnonzero(~goes)
        assert all(memory.word(page, 1) == _pattern(8, page, 1) for page in gap[:3].tolist())
        assert all(memory.word(page, 1) == _pattern(7, page, 1) for page in kept[:3].tolist())


@needs_page_flags
def test_a_freed_part_of_a_huge_page_is_split_off_at_once(shell: LocalShell) -> None:
    """Else the kernel keeps the whole of it until it splits it, some day."""
    with _churn(shell, hugepages="always") as churn:
        memory = ChurnMemory(churn.pid, seed=7)
        before = memory.pfns()
        huge = (_page_flags()[before] & KPF_THP) != 0
        if not huge.any():
            pytest.skip("the kernel gave no huge pages")
        churn.free_blocks(order=3, stride=2, offset=0)
        kept = memory.pfns() != 0
        halves = huge & kept
        assert halves.any()
        assert not (_page_flags()[before[halves]] & KPF_THP).any()


@needs_root
def test_without_page_frame_numbers_no_block_is_known(tool: Path) -> None:
    with _churn(LocalShell(tool, NOBODY)) as churn:
        assert churn.free_blocks(order=0, stride=1, offset=0).bytes == 0
        assert churn.verify(SECONDS).bytes == SIZE


@pytest.mark.parametrize("last_words", [b"exit\n", b"", b"verify\n"])
def test_churn_ends_well_with_its_input(shell: LocalShell, last_words: bytes) -> None:
    result = shell.run(
        f"fpr-guest churn --bytes {SIZE} --seed 1", stdin=last_words, timeout=SECONDS
    )
    assert result.stdout.startswith(b"filled ")
    assert result.stderr == b""


def test_a_killed_churn_is_explained_by_its_parent(shell: LocalShell) -> None:
    with _churn(shell) as churn:
        os.kill(churn.pid, signal.SIGKILL)
        with pytest.raises(GuestError, match=r"killed by signal 9 \(Killed\): out of memory\?"):
            churn.verify(SECONDS)


def test_a_crashed_churn_is_explained_by_its_parent(shell: LocalShell) -> None:
    with _churn(shell) as churn:
        os.kill(churn.pid, signal.SIGBUS)
        with pytest.raises(GuestError, match=r"killed by signal 7 \(Bus error\)\n"):
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
    with _churn(shell) as churn:
        assert Path(f"/proc/{churn.pid}/oom_score_adj").read_text() == "1000\n"


# --- counters -----------------------------------------------------------------------------------


def test_the_hand_shake_maps_the_tools_clock_to_ours(shell: LocalShell) -> None:
    """Here both are one clock."""
    with CounterStream(shell, hz=50.0) as stream:
        assert abs(stream.clock.offset) <= stream.clock.error
        assert stream.clock.error < 0.1
        before = time.monotonic()
        frame = stream.read()
        assert frame.at == pytest.approx(before, abs=1.0)


def test_frames_come_at_the_rate(shell: LocalShell) -> None:
    with CounterStream(shell, hz=50.0) as stream:
        frames = [stream.read() for _ in range(25)]
    _assert_on_schedule(frames, hz=50.0)
    late = [frame.at - frame.planned_at for frame in frames]
    assert min(late) >= 0.0
    assert sorted(late)[len(late) // 2] < 0.01


def _assert_on_schedule(frames: list[CounterFrame], hz: float) -> None:
    """Every tick is either a frame or told as missed, and none shifts the next."""
    first = frames[0]
    for number, frame in enumerate(frames):
        assert frame.sequence == first.sequence + number
        ticks = number + frame.missed - first.missed
        assert frame.planned_at - first.planned_at == pytest.approx(ticks / hz, abs=1e-5)


def test_ticks_that_nobody_took_are_told_not_made_up_for(shell: LocalShell) -> None:
    with CounterStream(shell, hz=200.0) as stream:
        frames = [stream.read()]
        time.sleep(0.5)
        while frames[-1].missed == frames[0].missed:
            frames.append(stream.read())
            assert len(frames) < 1000
        frames += [stream.read() for _ in range(5)]
    _assert_on_schedule(frames, hz=200.0)
    assert frames[-1].missed - frames[0].missed > 10


def test_counters_are_those_of_proc(shell: LocalShell) -> None:
    with CounterStream(shell, hz=20.0) as stream:
        frame = stream.read()
    for counters in (frame.parse(), read_counters(shell)):
        total = re.findall(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
        assert counters.meminfo["MemTotal"] == int(total[0]) * 1024
        assert counters.vmstat["pgfault"] > 0
        names = re.findall(r"zone +(\w+)", Path("/proc/buddyinfo").read_text())
        assert {zone.name for zone in counters.zones} <= set(names)
        assert counters.at == pytest.approx(time.monotonic(), abs=10.0)
    assert frame.free_bytes == frame.parse().meminfo["MemFree"]


@pytest.mark.parametrize("hz", ["0.1", "1000"])
def test_counters_end_with_their_input(shell: LocalShell, hz: str) -> None:
    result = shell.run(f"fpr-guest counters --hz {hz}", stdin=b"ping 5\n", timeout=5.0)
    assert result.stderr == b""
    assert struct.pack("<4sIQ", b"FPRP", 1, 5) in result.stdout


def test_counters_that_end_wake_their_reader(shell: LocalShell) -> None:
    class Kept(LocalShell):
        process: LocalProcess

        def start(self, command: str) -> LocalProcess:
            self.process = shell.start(command)
            return self.process

    kept = Kept(Path())
    with CounterStream(kept, hz=0.1) as stream:
        kept.process.kill()
        with pytest.raises(SshError, match="ended early"):
            stream.read()


# --- pages --------------------------------------------------------------------------------------


def _page_flags() -> npt.NDArray[np.uint64]:
    with Path("/proc/kpageflags").open("rb", buffering=0) as file:
        return np.frombuffer(b"".join(iter(lambda: file.read(1 << 20), b"")), dtype="<u8")


@needs_page_flags
def test_every_page_frame_has_a_state(shell: LocalShell) -> None:
    result = shell.run("fpr-guest pages", timeout=SECONDS)
    magic, version, page_bytes, pages, start, end, runs = struct.unpack_from(
        "<8sIIQQQQ", result.stdout
    )
    assert (magic, version, page_bytes) == (b"FPRPAGES", 2, PAGE_SIZE)
    assert start < end <= time.monotonic_ns()
    assert len(result.stdout) == 48 + 4 * runs
    states, flags = decode_pages(result.stdout).states, _page_flags()
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
        states = decode_pages(shell.run("fpr-guest pages", timeout=SECONDS).stdout).states
        assert (states[_pfns(memory)] == GuestState.CONTENT).all()


@needs_page_flags
def test_what_is_no_memory_is_no_page_whatever_its_flags(shell: LocalShell) -> None:
    """From 6.16 on a hole has no flag at all, and a kernel's own page has none either; 5.10 calls
    the rest of a section that is cut short reserved."""
    states = decode_pages(shell.run("fpr-guest pages", timeout=SECONDS).stdout).states
    bare = _page_flags() == 0
    ram = np.zeros(len(states), np.bool_)
    for start, end in parse_system_ram(Path("/proc/iomem").read_text()):
        ram[start // PAGE_SIZE : -(-end // PAGE_SIZE)] = True
    assert (states[~ram] == GuestState.NO_PAGE).all()
    assert np.count_nonzero(states[bare & ram] == GuestState.NO_PAGE) == 0
    assert np.count_nonzero(bare & ram), "the kernel has pages of its own"


@needs_page_flags
def test_another_round_sees_what_has_changed(shell: LocalShell) -> None:
    """The pages of the named process are HELD as long as it has them."""
    with _churn(shell) as churn, PageReader(shell, held_by=[churn.pid]) as reader:
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
        _churn(shell) as one,
        _churn(shell, seed=9) as two,
        PageReader(shell, held_by=[one.pid, two.pid]) as reader,
    ):
        states = reader.read().states
        for pid, seed in ((one.pid, 7), (two.pid, 9)):
            assert (states[ChurnMemory(pid, seed).pfns()] == GuestState.HELD).all()


@needs_page_flags
def test_a_named_process_that_is_gone_is_told(shell: LocalShell) -> None:
    with _churn(shell) as churn:
        pid = churn.pid
    with (
        PageReader(shell, held_by=[pid]) as reader,
        pytest.raises(ObserveError, match=rf"status 1.*open /proc/{pid}/pagemap: No such file"),
    ):
        reader.read()


@needs_root
def test_pages_are_for_root_only(tool: Path) -> None:
    with (
        PageReader(LocalShell(tool, NOBODY)) as reader,
        pytest.raises(ObserveError, match=r"status 1.*/proc/kpageflags: Permission denied"),
    ):
        reader.read()
