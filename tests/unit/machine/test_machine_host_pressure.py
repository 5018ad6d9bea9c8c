# SPDX-License-Identifier: Apache-2.0
"""Pressing memory out of a process of ours, and what a host says that cannot."""

import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import LaunchError, PreconditionError
from harness.image.cache import cache_directory
from harness.machine import host_pressure as pressure
from harness.machine.host_pressure import MemoryGroup, _rest, page_out, reclaim_v2
from harness.machine.interposer import (
    SLOW_SECONDS,
    build_interposer,
    check_preloaded,
    discard_environment,
    slow_from,
)
from harness.units import MIB

SIZE = 16 * MIB
MADV_FREE = 8

HOLDER = f"""
import ctypes, mmap, sys
memory = mmap.mmap(-1, {SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:: 4096] = b"x" * ({SIZE} // 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
assert libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t({SIZE} // 2), {MADV_FREE}) == 0
print(address, flush=True)
sys.stdin.read()
"""


@contextmanager
def waiting(script: str, environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """A Python program that has said a line and reads its standard input: its pid, and the line."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.pid, process.stdout.readline()
        process.stdin.close()


@pytest.fixture
def holder() -> Iterator[tuple[int, int]]:
    """A process that holds SIZE bytes at an address, the first half of them lazily freed."""
    with waiting(HOLDER, {}) as (pid, line):
        yield pid, int(line)


def lazyfree(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("LazyFree:")[2].split()[0]) * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="process_madvise needs CAP_SYS_NICE")
def test_what_is_lazily_free_is_taken_and_only_where_asked(holder: tuple[int, int]) -> None:
    pid, address = holder
    before = lazyfree(pid)
    assert before >= SIZE // 2 - 4 * MIB
    page_out(pid, [(address, address + SIZE // 4)])
    assert lazyfree(pid) == pytest.approx(before - SIZE // 4, abs=2 * MIB)
    page_out(pid, [(address, address + MIB), (address + MIB, address + SIZE)])
    assert lazyfree(pid) < 2 * MIB


def test_a_process_that_is_gone_is_told() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(PreconditionError, match="pidfd_open: No such process"):
        page_out(process.pid, [(0, 4096)])


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=20).flatmap(
        lambda sizes: st.tuples(st.just(sizes), st.integers(1, sum(sizes)))
    )
)
def test_what_the_kernel_left_is_asked_for_again(case: tuple[list[int], int]) -> None:
    sizes, done = case
    ranges = [(1000 * number, 1000 * number + size) for number, size in enumerate(sizes)]
    left = _rest(ranges, done)
    assert sum(high - low for low, high in left) == sum(sizes) - done
    assert all(low < high for low, high in left)
    assert left == [] or left[1:] == ranges[len(ranges) - len(left) + 1 :]


def test_more_ranges_than_one_call_takes() -> None:
    ranges = [(10 * number, 10 * number + 1) for number in range(pressure.IOV_MAX + 5)]
    assert _rest(ranges, pressure.IOV_MAX) == ranges[pressure.IOV_MAX :]


def test_no_progress_is_no_success() -> None:
    with pytest.raises(PreconditionError, match="advised no bytes"):
        _rest([(0, 1)], 0)


# --- control groups, on files as the kernel shows them ------------------------------------------


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of the process's control group; version 2 until told otherwise."""
    monkeypatch.setattr(pressure, "memory_file", lambda _pid: tmp_path / "memory.current")
    make = Path.mkdir

    def make_group(path: Path) -> None:
        make(path)
        for name in ("cgroup.procs", "memory.usage_in_bytes"):
            (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", make_group)
    (tmp_path / "cgroup.procs").touch()
    return tmp_path


def test_version_2_is_asked_for_so_many_bytes(group: Path) -> None:
    (group / "memory.reclaim").touch()
    reclaim_v2(1, 12345)
    assert (group / "memory.reclaim").read_text() == "12345"


def test_version_2_that_cannot_be_asked(group: Path) -> None:
    (group / "memory.reclaim").mkdir()
    with pytest.raises(PreconditionError, match=r"memory\.reclaim: Is a directory"):
        reclaim_v2(1, 12345)


def test_the_wrong_version_is_told(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreconditionError, match="there is no group above"):
        MemoryGroup.make("fpr-test", 1)
    monkeypatch.setattr(pressure, "memory_file", lambda _pid: group / "memory.usage_in_bytes")
    with pytest.raises(PreconditionError, match="no readable memory control group of version 2"):
        reclaim_v2(1, 1)


def test_version_1_lowers_the_limit_and_lifts_it_again(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "memory_file", lambda _pid: group / "memory.usage_in_bytes")
    stale = group / "fpr-0123456789ab.999999999"
    os.mkdir(stale)  # noqa: PTH102 - an empty directory can be removed, as a group can
    made = MemoryGroup.make("fpr-0123456789ac", 77)
    assert (made.path / "cgroup.procs").read_text() == "77"
    assert not stale.exists(), "what a killed harness has left is removed"
    with pytest.raises(PreconditionError, match=r"memory\.limit_in_bytes does not exist"):
        made.press(100)
    with pytest.raises(PreconditionError, match="has no memory limit to set"):
        made.limit(100)
    (made.path / "memory.limit_in_bytes").touch()
    made.limit(100)
    assert (made.path / "memory.limit_in_bytes").read_text() == "100"
    (made.path / "memory.usage_in_bytes").write_text("1000\n")
    made.press(100)
    assert (made.path / "memory.limit_in_bytes").read_text() == "-1"


# --- the interposer -----------------------------------------------------------------------------


def test_an_interposer_behind_a_link_is_found_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(cache_directory().parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    environment = discard_environment("free", tmp_path)
    assert environment["LD_PRELOAD"].startswith(str(tmp_path))
    with waiting("import sys; print('up', flush=True); sys.stdin.read()", environment) as (
        pid,
        _line,
    ):
        check_preloaded(pid, environment)


def test_the_interposer_makes_a_discard_lazy(tmp_path: Path) -> None:
    """In any program that discards with madvise as QEMU does."""
    script = HOLDER.replace(f"{MADV_FREE})", f"{mmap.MADV_DONTNEED})")
    for environment, lazy in (({}, False), (discard_environment("free", tmp_path), True)):
        with waiting(script, environment) as (pid, _line):
            assert (lazyfree(pid) > SIZE // 4) is lazy
            check_preloaded(pid, environment)


TIMED = """
import mmap, pathlib, sys, time
memory = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
slowly = pathlib.Path(sys.argv[1])
for then in (slowly.touch, slowly.unlink, list):
    start = time.monotonic()
    memory.madvise(mmap.MADV_DONTNEED)
    print(time.monotonic() - start)
    then()
"""


def test_discards_are_slow_while_the_file_is_there(tmp_path: Path) -> None:
    """A guest boots and ends as fast as ever; the host takes its time in between."""
    environment = discard_environment("slow", tmp_path)
    words = [sys.executable, "-c", TIMED, str(slow_from(tmp_path))]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    before, during, after = map(float, done.stdout.split())
    assert max(before, after) < SLOW_SECONDS <= during


def test_a_program_that_did_not_load_it_is_refused() -> None:
    with pytest.raises(LaunchError, match="did not load"):
        check_preloaded(os.getpid(), {"LD_PRELOAD": str(build_interposer())})


def test_a_qemu_with_an_older_c_library_can_load_it() -> None:
    """QEMU 5.2, unpacked with the glibc 2.31 of its suite, did not start."""
    needed = re.findall(rb"GLIBC_2\.(\d+)", build_interposer().read_bytes())
    assert needed
    assert max(map(int, needed)) <= 31


def test_a_fault_nobody_knows_ends_the_program() -> None:
    ended = subprocess.run(
        ["true"],
        env={"LD_PRELOAD": str(build_interposer()), "FPR_DISCARD": "dance"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 70
    assert "FPR_DISCARD names no way to discard" in ended.stderr
