# SPDX-License-Identifier: Apache-2.0
"""Read the reporting order of the running guest, or ask it for another first."""

from harness.act.session import GuestSession
from harness.errors import PreconditionError
from harness.observe.features import read_balloon_state
from harness.record.events import OrderRead
from harness.scenario.steps import OrderStep

PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_order"
"""From 5.14."""


def order(session: GuestSession, step: OrderStep) -> None:
    """Raises `PreconditionError` where a kernel without the parameter is asked for an order."""
    session.phase("order", "as it is" if step.set is None else str(step.set))
    refused = step.set is not None and not _accepts(session, step.set)
    state = read_balloon_state(session.vm.shell, session.vm.monitor, session.vm.balloon_path)
    session.reporting_order = state.page_reporting_order
    session.record.add(
        OrderRead(session.record.now(), step.set, refused, state.page_reporting_order)
    )


def _accepts(session: GuestSession, asked: int) -> bool:
    """Whether the guest takes the order."""
    shell = session.vm.shell
    if shell.run(f"[ -w {PARAMETER} ]", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({session.vm.kernel_release}) has no parameter {PARAMETER} to "
            "write to: it came with 5.14",
        )
    return shell.run(f"echo {asked} > {PARAMETER}", check=False).status == 0
