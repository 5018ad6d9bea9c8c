# SPDX-License-Identifier: Apache-2.0
"""A machine whose QEMU ends when its guest restarts itself is restarted on purpose."""

from collections.abc import Mapping
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineError
from harness.machine.reset import INIT_LINE, KERNEL_LINE, READY_LINE, Restart, Way, restart_machine


class Machine:
    """QMP and console of a guest that has booted once; each look brings the next of `future`."""

    def __init__(self, *future: str) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.heard: list[dict[str, Any]] = [{"event": "RESET"}]
        self.prints = KERNEL_LINE + READY_LINE
        self.future = list(future)
        self.now = 0.0

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        del timeout
        self.asked.append((command, dict(arguments or {})))

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        raise NotImplementedError((command, timeout))

    def events(self) -> list[dict[str, Any]]:
        return self.heard

    def count(self, words: str) -> int:
        return self.prints.count(words)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        word = self.future.pop(0) if self.future else ""
        if word.isupper():
            self.heard.append({"event": word})
        self.prints += word

    @property
    def commands(self) -> list[str]:
        return [command for command, _arguments in self.asked]


def restart(machine: Machine, way: Way = "reset") -> list[str]:
    """Restart it within 5 s; returns what was told, and after how many lines of the console."""
    told: list[str] = []
    restart_machine(
        machine,
        machine,
        machine.sleep,
        Deadline(5.0, "the guest to boot again"),
        Restart(way, away=lambda: told.append(f"away after {len(machine.prints.splitlines())}")),
        order=lambda: told.append("go"),
    )
    return told


def test_a_reset_comes_from_qemu_and_later_restarts_end_it_again() -> None:
    machine = Machine("", KERNEL_LINE, "", READY_LINE)
    assert restart(machine) == ["away after 1"]
    assert machine.commands == ["set-action", "system_reset", "set-action"]
    assert machine.asked[0][1] == {"reboot": "reset", "shutdown": "pause"}
    assert machine.asked[-1][1] == {"reboot": "shutdown", "shutdown": "poweroff"}


def test_a_kernel_that_is_quiet_is_heard_by_its_init() -> None:
    machine = Machine("", INIT_LINE, "", READY_LINE)
    assert restart(machine) == ["away after 1"]


@pytest.mark.parametrize("way", ["reboot", "kexec"])
def test_a_guest_that_restarts_itself_is_told_to(way: Way) -> None:
    machine = Machine(KERNEL_LINE, READY_LINE)
    assert restart(machine, way)[0] == "go"
    assert machine.commands == ["set-action", "set-action"]


def test_a_machine_that_is_off_is_switched_on_again() -> None:
    machine = Machine("", "SHUTDOWN", "", "RESET", KERNEL_LINE, READY_LINE)
    assert restart(machine, "poweroff")[0] == "go"
    assert machine.commands == ["set-action", "system_reset", "cont", "set-action"]


@pytest.mark.parametrize(
    ("future", "way", "missing"),
    [
        ([], "poweroff", "the machine has not switched off"),
        (["SHUTDOWN"], "poweroff", "QEMU has not reset the machine"),
        ([], "reboot", "no kernel has started again"),
        ([KERNEL_LINE], "kexec", "the guest has not become ready again"),
    ],
)
def test_what_does_not_happen_is_named(
    monkeypatch: pytest.MonkeyPatch, future: list[str], way: Way, missing: str
) -> None:
    machine = Machine(*future)
    monkeypatch.setattr("time.monotonic", lambda: machine.now)
    with pytest.raises(DeadlineError, match=missing):
        restart(machine, way)
