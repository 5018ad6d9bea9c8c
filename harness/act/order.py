# SPDX-License-Identifier: Apache-2.0
"""Ask the running guest for another reporting order, and see what it makes of it."""

from harness.act.session import GuestSession
from harness.errors import PreconditionError
from harness.ledger.events import OrderChanged
from harness.observe.features import read_balloon_state
from harness.scenario.steps import OrderStep

PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_order"
"""From 5.14."""


def order(session: GuestSession, step: OrderStep) -> None:
    """Raises `PreconditionError` on a kernel without the parameter."""
    session.phase("order", str(step.set))
    shell = session.vm.shell
    if shell.run(f"[ -w {PARAMETER} ]", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({session.vm.kernel_release}) has no parameter {PARAMETER} to "
            "write to: it came with 5.14",
        )
    refused = shell.run(f"echo {step.set} > {PARAMETER}", check=False).status != 0
    state = read_balloon_state(shell, session.vm.monitor, session.vm.balloon_path)
    session.reporting_order = state.page_reporting_order
    session.record.add(
        OrderChanged(session.record.now(), step.set, refused, state.page_reporting_order)
    )
