# SPDX-License-Identifier: Apache-2.0
"""Inflate and deflate the balloon."""

from typing import ClassVar

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.errors import GuestStuckError
from harness.record.events import Ballooned
from harness.scenario.fields import MemoryShareOrAll, Seconds
from harness.scenario.steps import Verb
from harness.units import MIB, format_size

LOOK_SECONDS = 0.05


class ResizeBalloon(Verb):
    """Inflates or deflates the balloon until the guest has a given amount of memory."""

    verb: ClassVar[str] = "balloon"
    through_qmp: ClassVar[bool] = True
    moves_memory: ClassVar[bool] = True
    to: MemoryShareOrAll
    """How much memory the guest keeps: a share of its memory (`50%`), a size, or `all`."""
    deadline: Seconds = 60.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    def perform(self, guest: Guest) -> None:
        """Resize the balloon and wait for the guest. Raises `QmpError`, `GuestStuckError`."""
        memory = guest.vm.spec.memory
        wanted = memory if isinstance(self.to, str) else self.to.of(memory) // MIB * MIB
        guest.phase("balloon", f"to {format_size(wanted)}")
        start = guest.record.now()
        what = f"the balloon to leave the guest {format_size(wanted)}"
        deadline = Deadline(self.deadline * guest.vm.pace, what, GuestStuckError)
        monitor = guest.vm.monitor
        monitor.execute("balloon", {"value": wanted})
        while (actual := int(monitor.execute("query-balloon")["actual"])) != wanted:
            deadline.check(f"the guest has {format_size(actual)}")
            guest.vm.sleep_alive(LOOK_SECONDS)
        now = guest.record.now()
        guest.record.add(Ballooned(now, actual, now - start))
