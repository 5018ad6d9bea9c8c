# SPDX-License-Identifier: Apache-2.0
"""Inflate and deflate the balloon."""

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import GuestStuckError
from harness.record.events import Ballooned
from harness.scenario.steps import BalloonStep
from harness.units import MIB, format_size

LOOK_SECONDS = 0.05


def balloon(session: GuestSession, step: BalloonStep) -> None:
    """Return when the guest has what it was told to have. Raises `QmpError`, `GuestStuckError`."""
    memory = session.vm.spec.memory
    wanted = memory if isinstance(step.to, str) else step.to.of(memory) // MIB * MIB
    session.phase("balloon", f"to {format_size(wanted)}")
    start = session.record.now()
    what = f"the balloon to leave the guest {format_size(wanted)}"
    deadline = Deadline(step.deadline, what, GuestStuckError)
    session.vm.monitor.execute("balloon", {"value": wanted})
    while (actual := int(session.vm.monitor.execute("query-balloon")["actual"])) != wanted:
        deadline.check(f"the guest has {format_size(actual)}")
        session.vm.sleep_alive(LOOK_SECONDS)
    now = session.record.now()
    session.record.add(Ballooned(now, actual, now - start))
