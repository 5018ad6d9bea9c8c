# SPDX-License-Identifier: Apache-2.0
"""Read the reporting order and delay of the running guest, after setting them if asked to."""

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest
from harness.errors import GuestError, PreconditionError
from harness.observe.features import MOST_PASS_SECONDS, read_balloon_state
from harness.record.events import OrderRead
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb

PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_order"
"""Module parameter of mm/page_reporting.c since 5.14."""

DELAY_PARAMETER = "/sys/module/page_reporting/parameters/page_reporting_delay_ms"
"""Module parameter of mm/page_reporting.c since 7.3."""


class Order(Verb):
    """Reads the reporting order of the running guest (`order_read`). With `set` it first sets
    another order and records whether the kernel refused it (`order_refused`, 1 or 0); on a kernel
    before 5.14, which has no such parameter, the run is a SKIP.
    """

    verb: ClassVar[str] = "order"
    set: Annotated[StrictInt, Field(ge=0, le=32)] | None = None
    """The order to set, 0 to 32."""
    delay: Annotated[Seconds, Field(le=MOST_PASS_SECONDS)] | None = None
    """The time between two reporting passes to set, in whole milliseconds; on a kernel before 7.3,
    which has no such parameter, the run is a SKIP."""

    def perform(self, guest: Guest) -> None:
        """Set the order if asked to, and read it.

        Raises `PreconditionError` if the kernel has no parameter to set, `GuestError` if it refuses
        the delay, `ObserveError` if the order cannot be read.
        """
        guest.phase("order", "as it is" if self.set is None else str(self.set))
        refused = self.set is not None and not _accepts(guest, PARAMETER, "5.14", self.set)
        if self.delay is not None:
            milliseconds = round(self.delay * 1000)
            if not _accepts(guest, DELAY_PARAMETER, "7.3", milliseconds):
                raise GuestError(f"the guest refused a reporting delay of {milliseconds} ms")
        vm = guest.vm
        state = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
        guest.reporting_order = order = state.page_reporting_order
        guest.pass_seconds = state.pass_seconds
        guest.record.add(
            OrderRead(guest.record.now(), self.set, refused, order, pass_seconds=state.pass_seconds)
        )


def _accepts(guest: Guest, parameter: str, since: str, value: int) -> bool:
    """Write a parameter that Linux `since` introduced; returns whether the kernel accepts it."""
    shell = guest.vm.shell
    if shell.run(f"[ -w {parameter} ]", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({guest.vm.kernel_release}) has no writable {parameter}, which "
            f"Linux {since} introduced",
        )
    return shell.run(f"echo {value} > {parameter}", check=False).status == 0
