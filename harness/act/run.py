# SPDX-License-Identifier: Apache-2.0
"""Run a command in the guest that the scenario needs and the harness knows nothing of."""

from harness.act.session import GuestSession
from harness.scenario.model import RunStep


def run(session: GuestSession, step: RunStep) -> None:
    """Raises `GuestError` if it fails, `DeadlineError` if it does not end in time."""
    session.phase("run", step.command.splitlines()[0])
    session.vm.shell.run(step.command, timeout=step.deadline)
