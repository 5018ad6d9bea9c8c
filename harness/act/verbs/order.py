# SPDX-License-Identifier: Apache-2.0
"""Read the reporting order of the running guest, after setting it if asked to."""

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest
from harness.errors import PreconditionError
from harness.observe.features import read_balloon_state
from harness.record.events import OrderRead
from harness.scenario.steps import Verb

PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_order"
"""Module parameter of mm/page_reporting.c since 5.14."""


class Order(Verb):
    """Reads the reporting order of the running guest (`order_read`). With `set` it first sets
    another order and records whether the kernel refused it (`order_refused`, 1 or 0); on a kernel
    before 5.14, which has no such parameter, the run is a SKIP.
    """

    verb: ClassVar[str] = "order"
    set: Annotated[StrictInt, Field(ge=0, le=32)] | None = None
    """The order to set, 0 to 32."""

    def perform(self, guest: Guest) -> None:
        """Set the order if asked to, and read it.

        Raises `PreconditionError` if the kernel has no parameter to set, `ObserveError` if the
        order cannot be read.
        """
        guest.phase("order", "as it is" if self.set is None else str(self.set))
        refused = self.set is not None and not _accepts(guest, self.set)
        vm = guest.vm
        state = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
        guest.reporting_order = order = state.page_reporting_order
        guest.record.add(OrderRead(guest.record.now(), self.set, refused, order))


def _accepts(guest: Guest, asked: int) -> bool:
    """Write the parameter; returns whether the kernel accepts the order."""
    shell = guest.vm.shell
    if shell.run(f"[ -w {PARAMETER} ]", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({guest.vm.kernel_release}) has no writable {PARAMETER}, which "
            "Linux 5.14 introduced",
        )
    return shell.run(f"echo {asked} > {PARAMETER}", check=False).status == 0
