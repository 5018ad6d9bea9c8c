# SPDX-License-Identifier: Apache-2.0
"""Functional runs share the host; a measurement has it for itself."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from entrant import Entrant

from harness.errors import DeadlineError
from harness.run import host_turn as subject
from harness.run.host_memory import HostMemory
from harness.run.host_turn import HostTurn

NEVER = threading.Event()

MEASURES = """
import sys, threading, time
from pathlib import Path
from harness.run.host_turn import HostTurn

with HostTurn(Path(sys.argv[1])).take(alone=True, cancelled=threading.Event()):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LOOK_SECONDS", 0.01)
    monkeypatch.delenv(subject.HELD)


class Host:
    """A directory that invocations share, and what they were told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[str] = []
        self._guests = ExitStack()

    def wants(self, *, alone: bool, cancelled: threading.Event = NEVER) -> Entrant:
        turn = HostTurn(self.directory, self.told.append)
        guest = Entrant(turn.take(alone=alone, cancelled=cancelled))
        self._guests.callback(guest.leave)
        return guest

    def end(self) -> None:
        self._guests.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end()


def test_functional_runs_share_the_host(host: Host) -> None:
    for _guest in range(3):
        assert host.wants(alone=False).is_in
    assert host.told == []


def test_a_measurement_waits_for_the_others_and_says_so(host: Host) -> None:
    first = host.wants(alone=False)
    assert first.is_in
    measurement = host.wants(alone=True)
    assert measurement.waits
    assert host.told == [
        "waiting for the host, to measure alone: until no other guest of this user runs"
    ]
    first.leave()
    assert measurement.is_in


def test_nobody_is_let_in_before_a_measurement_that_waits(host: Host) -> None:
    first = host.wants(alone=False)
    assert first.is_in
    measurement = host.wants(alone=True)
    assert measurement.waits
    later = host.wants(alone=False)
    assert later.waits
    assert host.told[-1] == "waiting for a measurement that has the host for itself"
    first.leave()
    assert measurement.is_in
    assert later.waits
    measurement.leave()
    assert later.is_in


@pytest.mark.whole_command
def test_a_measurement_that_was_killed_holds_the_host_no_longer(host: Host) -> None:
    words = [sys.executable, "-c", MEASURES, str(host.directory)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "in\n"
        guest = host.wants(alone=False)
        assert guest.waits
        killed.send_signal(signal.SIGKILL)
    assert guest.is_in


def test_who_is_cancelled_waits_no_longer(host: Host) -> None:
    assert host.wants(alone=True).is_in
    cancelled = threading.Event()
    other = host.wants(alone=True, cancelled=cancelled)
    assert other.waits
    cancelled.set()
    assert other.is_in


def test_waiting_has_an_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.wants(alone=True).is_in
    monkeypatch.setattr(subject, "WAIT_SECONDS", 0.05)
    turn = HostTurn(host.directory)
    with (
        pytest.raises(DeadlineError, match="a measurement that has the host for itself"),
        turn.take(alone=False, cancelled=NEVER),
    ):
        pass


def test_a_process_of_who_holds_the_host_does_not_wait_for_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.wants(alone=True).is_in
    monkeypatch.setenv(subject.HELD, "1")
    assert host.wants(alone=False).is_in


def test_without_a_place_to_share_nobody_is_waited_for(tmp_path: Path) -> None:
    told: list[str] = []
    turn = HostTurn(tmp_path / "missing", told.append)
    with turn.take(alone=True, cancelled=NEVER):
        assert "measurements of other invocations are not awaited" in told[0]


def test_the_files_are_no_guests_to_whoever_counts_memory(host: Host) -> None:
    """Both lie in one directory, from which the files of guests that ended are removed."""
    assert host.wants(alone=False).is_in
    before = {path.name: path.stat().st_ino for path in host.directory.iterdir()}
    with HostMemory(lambda: 1, host.directory).reserve(1, NEVER):
        pass
    assert set(before) == {"gate", "turn"}
    assert before.items() <= {p.name: p.stat().st_ino for p in host.directory.iterdir()}.items()
