# SPDX-License-Identifier: Apache-2.0
"""Reset the machine, and go on with the guest that boots in it again."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from harness.act.guest import Guest
from harness.act.verbs.audit import Audits
from harness.deadline import Deadline
from harness.errors import GuestStuckError
from harness.scenario.fields import Seconds
from harness.scenario.steps import Situation, Verb
from harness.yamlfile import Loc


class Reboot(Verb):
    """Resets the machine without a word to the guest, and waits until the guest has booted again.
    The host keeps what the old kernel held until the new one reports it.
    """

    verb: ClassVar[str] = "reboot"
    moves_memory: ClassVar[bool] = True
    breaks_connection: ClassVar[bool] = True
    deadline: Seconds = 120.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    def expected_seconds(self, _memory: int) -> float:
        """Return the time of a boot."""
        return 8.0

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require a guest as it has booted: what is held, busy, plugged or unbound is lost."""
        if before.facts:
            yield (), f"it would undo what steps before it did ({', '.join(sorted(before.facts))})"

    def after(self, before: Situation) -> Situation:
        """Change nothing: what the guest has is what it booted with."""
        return replace(before)

    def perform(self, guest: Guest) -> None:
        """Reset and wait. Raises `QmpError`, `SshError`, `GuestStuckError`."""
        guest.phase("reboot")
        guest.reboot(Deadline(self.deadline, "the guest to boot again", GuestStuckError))
        # What a page held before the reset says nothing of what it must hold now.
        guest.kept(Audits).seen = None
        guest.read_console()
