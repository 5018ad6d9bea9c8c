# SPDX-License-Identifier: Apache-2.0
"""QMP commands that a scenario needs and the harness knows nothing of."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb


class Qmp(Verb):
    """Gives QEMU a QMP command, and waits for an event where one is named.

    What can reach beyond the guest needs `--allow-qmp COMMAND` from whoever runs the scenario.
    """

    verb: ClassVar[str] = "qmp"
    command: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
    """As in QEMU's QMP reference: `system_reset`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The arguments of the command."""
    event: str = ""
    """An event to wait for after it."""
    deadline: Seconds = 30.0
    """For the command, and again for the event. If it passes, the run is a MISS."""

    @property
    def qmp_commands(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The one."""
        return ((self.command, self.arguments),)

    def perform(self, guest: Guest) -> None:
        """Raises `QmpError`, `DeadlineError` for an event that does not come."""
        guest.phase("qmp", self.command)
        monitor = guest.vm.monitor
        monitor.execute(self.command, self.arguments, timeout=self.deadline)
        if self.event:
            deadline = Deadline(self.deadline, f"QEMU's event {self.event} after {self.command}")
            monitor.wait_event([self.event], deadline)
