# SPDX-License-Identifier: Apache-2.0
"""Several invocations at once never promise more memory than the host has."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from entrant import Entrant

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError
from harness.run import host_memory as subject
from harness.run.host_memory import HostMemory
from harness.units import GIB

NEVER = threading.Event()

INVOCATION = """
import sys, threading, time
from pathlib import Path
from harness.run.host_memory import HostMemory

directory, log = map(Path, sys.argv[1:])
memory = HostMemory(lambda: 4 << 30, directory)

def run():
    for _ in range(8):
        with memory.reserve((3 << 30) // 2, threading.Event()), log.open("a") as file:
            file.write(f"{time.monotonic()} 1\\n")
            file.flush()
            time.sleep(0.02)
            file.write(f"{time.monotonic()} -1\\n")
            file.flush()

threads = [threading.Thread(target=run) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(subject, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(subject, "_held_below", lambda _pid: 0)


@pytest.fixture
def memory(tmp_path: Path) -> HostMemory:
    """A host with 4 GiB to give."""
    return HostMemory(lambda: 4 * GIB, tmp_path / "shared")


def guest_of(memory: HostMemory, size: int, cancelled: threading.Event = NEVER) -> Entrant:
    """A guest that wants in."""
    return Entrant(memory.reserve(size, cancelled))


@contextlib.contextmanager
def leaving(*guests: Entrant) -> Iterator[None]:
    try:
        yield
    finally:
        for guest in guests:
            guest.leave()


def test_three_invocations_at_once_never_overcommit(tmp_path: Path) -> None:
    """Nine threads, guests of 1.5 GiB, 4 GiB: two of them at most, and two at times."""
    log = tmp_path / "log"
    words = [sys.executable, "-c", INVOCATION, str(tmp_path / "shared"), str(log)]
    invocations = [subprocess.Popen(words) for _ in range(3)]
    assert [invocation.wait(120.0) for invocation in invocations] == [0, 0, 0]
    inside, most = 0, 0
    for _at, change in sorted(line.split() for line in log.read_text().splitlines()):
        inside += int(change)
        most = max(most, inside)
    assert len(log.read_text().splitlines()) == 3 * 3 * 8 * 2
    assert most == 2
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["lock"]


def test_first_come_first_served(memory: HostMemory) -> None:
    """Else small guests could keep a large one out for ever."""
    small = guest_of(memory, GIB)
    assert small.is_in
    large = guest_of(memory, 4 * GIB)
    assert large.waits
    another = guest_of(memory, GIB)
    with leaving(large, another):
        assert another.waits
        small.leave()
        assert large.is_in
        assert another.waits
        large.leave()
        assert another.is_in


def test_one_too_large_for_the_host_is_let_in_alone(memory: HostMemory) -> None:
    with leaving(guest := guest_of(memory, 64 * GIB)):
        assert guest.is_in


def test_what_the_host_can_never_give_is_not_waited_for(memory: HostMemory) -> None:
    """The run itself says at once that there is less."""
    with leaving(guest_of(memory, 4 * GIB), guest := guest_of(memory, 1 << 50)):
        assert guest.is_in


def test_what_a_guest_holds_already_is_reckoned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Available memory is without it."""
    available = 4 * GIB
    memory = HostMemory(lambda: available, tmp_path / "shared")
    first = guest_of(memory, 3 * GIB)
    assert first.is_in
    monkeypatch.setattr(subject, "_held_below", lambda _pid: 2 * GIB)
    available -= 2 * GIB
    with leaving(first, second := guest_of(memory, GIB)):
        assert second.is_in  # 2 GiB are there, of which the first may take 1
        third = guest_of(memory, GIB)
        assert third.waits
    third.leave()


def test_a_harness_that_was_killed_keeps_nothing(memory: HostMemory, tmp_path: Path) -> None:
    code = INVOCATION.replace("time.sleep(0.02)", "time.sleep(600)")
    shared = tmp_path / "shared"
    words = [sys.executable, "-c", code, str(shared), str(tmp_path / "log")]
    killed = subprocess.Popen(words)
    wait_for(
        lambda: True if len(list(shared.iterdir())) == 4 else None, Deadline(30.0, "its guests")
    )
    with leaving(guest := guest_of(memory, 3 * GIB)):
        assert guest.waits
        killed.kill()
        killed.wait(10.0)
        assert guest.is_in
        assert len(list(shared.iterdir())) == 2


def test_a_request_to_stop_ends_the_wait(memory: HostMemory) -> None:
    cancelled = threading.Event()
    first = guest_of(memory, 4 * GIB)
    assert first.is_in
    with leaving(first, guest := guest_of(memory, GIB, cancelled)):
        assert guest.waits
        cancelled.set()
        assert guest.is_in


@pytest.mark.parametrize("spoil", ["a-file", "not-there"])
def test_a_host_without_a_place_to_share_delays_nobody(tmp_path: Path, spoil: str) -> None:
    (tmp_path / "a-file").touch()
    with leaving(guest := guest_of(HostMemory(lambda: 0, tmp_path / spoil), GIB)):
        assert guest.is_in


def test_a_lock_that_is_a_link_is_not_followed(memory: HostMemory, tmp_path: Path) -> None:
    (tmp_path / "shared" / "lock").symlink_to(tmp_path / "elsewhere")
    with leaving(guest := guest_of(memory, GIB)):
        assert guest.is_in
    assert not (tmp_path / "elsewhere").exists()


def test_a_holder_that_is_stopped_stops_nobody(
    memory: HostMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "LOCK_SECONDS", 0.2)
    began = time.monotonic()
    with subject._locked(tmp_path / "shared"), leaving(guest := guest_of(memory, GIB)):
        assert guest.is_in
    assert time.monotonic() - began < subject.LOCK_SECONDS + 10.0


def test_a_wait_is_told_once_and_ends_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another harness may be stopped for good, with its guests."""
    monkeypatch.setattr(subject, "WAIT_SECONDS", 0.5)
    told: list[str] = []
    memory = HostMemory(lambda: 4 * GIB, tmp_path / "shared", told.append)
    first = guest_of(memory, 4 * GIB)
    assert first.is_in
    with leaving(first, guest := guest_of(memory, GIB)):
        refused = wait_for(lambda: guest.refused, Deadline(5.0, "the wait to end"))
    assert isinstance(refused, DeadlineError)
    assert "waited 0.5 s for 1GiB that other guests on this host hold" in refused.message
    holders = f"harnesses with guests: {os.getpid()}"
    assert holders in refused.message
    assert told == [f"waiting for 1GiB that other guests on this host hold; {holders}"]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["lock"]
