# SPDX-License-Identifier: Apache-2.0
"""Read the reporting order of the running guest, or ask it for another first."""

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest
from harness.errors import PreconditionError
from harness.observe.features import read_balloon_state
from harness.record.events import OrderRead
from harness.scenario.steps import Verb

PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_order"
"""From 5.14."""


class Order(Verb):
    """Reads the reporting order of the running guest, `order_read`. With `set` it first asks the
    guest for another order, `order_refused` (1 or 0); a kernel before 5.14 cannot be asked, and the
    run is a SKIP.
    """

    verb: ClassVar[str] = "order"
    set: Annotated[StrictInt, Field(ge=0, le=32)] | None = None
    """The order to ask for, 0 to 32."""

    def perform(self, guest: Guest) -> None:
        """Raises `PreconditionError` where a kernel without the parameter is asked for an order,
        `ObserveError` where the guest does not tell its order.
        """
        guest.phase("order", "as it is" if self.set is None else str(self.set))
        refused = self.set is not None and not _accepts(guest, self.set)
        vm = guest.vm
        state = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
        guest.reporting_order = order = state.page_reporting_order
        guest.record.add(OrderRead(guest.record.now(), self.set, refused, order))


def _accepts(guest: Guest, asked: int) -> bool:
    """Whether the guest takes the order."""
    shell = guest.vm.shell
    if shell.run(f"[ -w {PARAMETER} ]", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({guest.vm.kernel_release}) has no parameter {PARAMETER} to "
            "write to: it came with 5.14",
        )
    return shell.run(f"echo {asked} > {PARAMETER}", check=False).status == 0
