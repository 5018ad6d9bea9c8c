# SPDX-License-Identifier: Apache-2.0
"""Restart a machine whose QEMU otherwise ends when its guest restarts itself (`-no-reboot`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from harness.deadline import Deadline
from harness.machine import interfaces

Way = Literal["reset", "reboot", "poweroff", "kexec"]

READY_LINE = "fpr-init: ready"
"""What the guest's init prints when it is ready."""

KERNEL_LINE = "Linux version "
"""What every kernel prints first (start_kernel(), init/main.c), unless it is told to be quiet."""

INIT_LINE = "fpr-init: start"
"""What the guest's init prints first, at any console log level but 0."""

LOOK_SECONDS = 0.1


class Monitor(interfaces.Monitor, Protocol):
    """QMP with its events."""

    def events(self) -> list[dict[str, Any]]:
        """Return all events so far, oldest first."""


class Console(Protocol):
    """The guest's console."""

    def count(self, words: str) -> int:
        """Count the occurrences of a text on the console so far."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Restart:
    """How a guest goes, and what is done meanwhile."""

    way: Way = "reset"
    command: str = ""
    """Makes the guest go, in the background; of a reset it does not hear."""
    leaving: Callable[[], None] = _nothing
    """Called again and again until the guest is ready again."""
    away: Callable[[], None] = _nothing
    """Called when the next kernel prints its first line, or where it is quiet, its init."""


def restart_machine(
    monitor: Monitor,
    console: Console,
    sleep: Callable[[float], None],
    deadline: Deadline,
    how: Restart,
    order: Callable[[], None],
) -> None:
    """Restart, and wait until the guest has booted again.

    `order` gives the guest its command; after a power-off the machine is switched on again. Raises
    `QmpError`, `DeadlineError`, and what `order` and `sleep` raise, the latter when QEMU has ended.
    """
    boots = console.count(READY_LINE)
    before = {words: console.count(words) for words in (KERNEL_LINE, INIT_LINE)}
    seen = len(monitor.events())

    def happened(event: str) -> bool:
        return any(each["event"] == event for each in monitor.events()[seen:])

    def wait(until: Callable[[], bool], what: str) -> None:
        while not until():
            deadline.check(what)
            sleep(LOOK_SECONDS)
            how.leaving()

    monitor.execute("set-action", {"reboot": "reset", "shutdown": "pause"})
    if how.way == "reset":
        monitor.execute("system_reset")
    else:
        order()
    if how.way == "poweroff":
        wait(lambda: happened("SHUTDOWN"), "the machine has not switched off")
        monitor.execute("system_reset")
        wait(lambda: happened("RESET"), "QEMU has not reset the machine")
        monitor.execute("cont")
    wait(
        lambda: any(console.count(words) > seen for words, seen in before.items()),
        "no kernel has started again",
    )
    how.away()
    wait(lambda: console.count(READY_LINE) > boots, "the guest has not become ready again")
    monitor.execute("set-action", {"reboot": "shutdown", "shutdown": "poweroff"})
