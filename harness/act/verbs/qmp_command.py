# SPDX-License-Identifier: Apache-2.0
"""Send QMP commands of a scenario to QEMU."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb


class Qmp(Verb):
    """Sends QEMU a QMP command, and waits for an event if one is named.

    A command that can reach beyond the guest needs `--allow-qmp COMMAND` on the command line.
    """

    verb: ClassVar[str] = "qmp"
    through_qmp: ClassVar[bool] = True
    command: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
    """Name of the command, as in QEMU's QMP reference: `system_reset`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The arguments of the command."""
    event: str = ""
    """An event to wait for after the command."""
    deadline: Seconds = 30.0
    """Deadline of the command, and again of the event. If it passes, the run is a MISS."""

    @property
    def qmp_commands(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The command with its arguments."""
        return ((self.command, self.arguments),)

    def perform(self, guest: Guest) -> None:
        """Send the command. Raises `QmpError`, `DeadlineError` if the event does not come."""
        guest.phase("qmp", self.command)
        monitor = guest.vm.monitor
        monitor.execute(self.command, self.arguments, timeout=self.deadline)
        if self.event:
            deadline = Deadline(
                self.deadline * guest.vm.pace, f"QEMU's event {self.event} after {self.command}"
            )
            monitor.wait_event([self.event], deadline)
