# SPDX-License-Identifier: Apache-2.0
"""Commands that a scenario needs and the harness knows nothing of: in the guest, or of QEMU's."""

import re

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import GuestError, PreconditionError
from harness.record.events import Measured
from harness.scenario.steps import QmpStep, RequireStep, RunStep

_NUMBER = re.compile(r"^([a-z][a-z0-9_]*)=(-?\d{1,20}(?:\.\d{1,20})?)$", re.MULTILINE)


def run(session: GuestSession, step: RunStep) -> None:
    """Raises `GuestError` if it fails or does not print a number that it should,
    `DeadlineError` if it does not end in time."""
    session.phase("run", step.command.splitlines()[0])
    result = session.vm.shell.run(step.command, timeout=step.deadline)
    numbers = dict(_NUMBER.findall(result.stdout.decode(errors="replace")))
    for name in step.measures:
        if name not in numbers:
            raise GuestError(
                f"the command {step.command!r} printed no line `{name}=NUMBER`, but "
                f"{result.stdout[:200]!r}"
            )
        value = float(numbers[name])
        session.record.add(Measured(session.record.now(), name, value, step.measures[name]))


def require(session: GuestSession, step: RequireStep) -> None:
    """Raises `PreconditionError` unless the command succeeds."""
    session.phase("require", step.command.splitlines()[0])
    if session.vm.shell.run(step.command, check=False).status:
        kernel = session.vm.kernel_release
        raise PreconditionError(f"the guest ({kernel}) lacks {step.missing}")


def qmp(session: GuestSession, step: QmpStep) -> None:
    """Raises `QmpError`, `DeadlineError` for an event that does not come."""
    session.phase("qmp", step.command)
    session.vm.monitor.execute(step.command, step.arguments, timeout=step.deadline)
    if step.event:
        deadline = Deadline(step.deadline, f"QEMU's event {step.event} after {step.command}")
        session.vm.monitor.wait_event([step.event], deadline)
