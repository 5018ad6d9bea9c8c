# SPDX-License-Identifier: Apache-2.0
"""What the harness does differently for a guest whose clock races while it idles."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import SshError
from harness.machine.spec import GuestSpec
from harness.machine.ssh import SshShell
from harness.machine.vm import VirtualMachine
from harness.units import MIB


class Door:
    """Refuses so many log-ins."""

    def __init__(self, refuses: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.knocks = 0
        self._refuses = refuses
        monkeypatch.setattr(SshShell, "_connect", self.answer)

    def answer(self, *_: Any) -> object:
        self.knocks += 1
        if self.knocks <= self._refuses:
            raise SshError("Timeout before auth")
        return SimpleNamespace(close=lambda: None)


def log_in(logins: int, seconds: float = 10.0) -> SshShell:
    nobody: Any = None
    return SshShell(22, nobody, lambda: None, Deadline(seconds, "the guest"), logins=logins)


def test_a_guest_whose_time_for_a_client_was_over_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(2, monkeypatch)
    log_in(3)
    assert door.knocks == 3


@pytest.mark.parametrize(("logins", "seconds"), [(1, 10.0), (3, 0.0)])
def test_but_only_so_often_and_not_beyond_the_deadline(
    monkeypatch: pytest.MonkeyPatch, logins: int, seconds: float
) -> None:
    door = Door(9, monkeypatch)
    with pytest.raises(SshError, match="before auth"):
        log_in(logins, seconds)
    assert door.knocks == 1


@pytest.mark.parametrize(
    ("clock", "asked", "slept"), [("real", [], [7.5]), ("virtual", ["sleep 7.5"], [])]
)
def test_time_passes_by_the_clock_of_the_guest(
    monkeypatch: pytest.MonkeyPatch, clock: Any, asked: list[str], slept: list[float]
) -> None:
    commands: list[str] = []
    waits: list[float] = []
    vm = object.__new__(VirtualMachine)
    vm.spec = GuestSpec(256 * MIB, 1, clock=clock)
    vm._cancelled = threading.Event()
    shell: Any = SimpleNamespace(run=lambda command, **_: commands.append(command))
    vm.shell = shell
    monkeypatch.setattr(vm, "sleep_alive", waits.append)
    vm.pass_time(7.5)
    assert (commands, waits) == (asked, slept)
