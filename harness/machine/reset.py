# SPDX-License-Identifier: Apache-2.0
"""Reset a machine whose QEMU otherwise ends when its guest resets itself (`-no-reboot`)."""

from collections.abc import Callable

from harness.deadline import Deadline
from harness.machine.console import ConsoleWatcher
from harness.machine.interfaces import Monitor

READY_LINE = "fpr-init: ready"
"""What the guest's init prints when it is ready."""

LOOK_SECONDS = 0.1


def reset_machine(
    monitor: Monitor, console: ConsoleWatcher, sleep: Callable[[float], None], deadline: Deadline
) -> None:
    """Reset, and wait until the guest has booted again.

    Raises `QmpError`, `DeadlineError`, and what `sleep` raises when QEMU has ended.
    """
    boots = console.count(READY_LINE)
    monitor.execute("set-action", {"reboot": "reset"})
    monitor.execute("system_reset")
    while console.count(READY_LINE) <= boots:
        deadline.check()
        sleep(LOOK_SECONDS)
    monitor.execute("set-action", {"reboot": "shutdown"})
