# SPDX-License-Identifier: Apache-2.0
"""Measure how many page faults per second the guest can take."""

import re
from typing import ClassVar, Literal

from harness.act.guest import Guest
from harness.errors import GuestError
from harness.record.events import FaultRate
from harness.record.folding import fold
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb

SLACK_SECONDS = 30.0


class MeasureFaults(Verb):
    """Measures page faults per second, and records whether reporting is at work, offered but
    without a driver, or not offered.
    """

    verb: ClassVar[str] = "fault_rate"
    times_the_guest: ClassVar[bool] = True
    by: Literal["process", "thread"] = "process"
    """Whether each vCPU runs its own process, or a thread of one process."""
    pages: Literal["base", "huge", "file"] = "base"
    """What is written to: pages of 4 KiB (`base`) or 2 MiB (`huge`) of anonymous memory, as in
    will-it-scale's page_fault1; or pages of 4 KiB of a file in memory, mapped privately (`file`),
    as in its page_fault2."""
    duration: Seconds = 1.0
    """How long it counts faults."""

    def expected_seconds(self, _memory: int) -> float:
        """Return the duration of the measurement."""
        return self.duration

    def perform(self, guest: Guest) -> None:
        """Measure the rate. Raises `GuestError`, `DeadlineError`."""
        state = _reporting(guest)
        guest.phase("fault_rate", f"{self.by}, {self.pages} pages, reporting {state}")
        command = f"fpr-guest faults --by {self.by} --pages {self.pages}"
        with guest.unasked():
            result = guest.vm.shell.run(
                f"{command} --ms {self.duration * 1000:.0f}", timeout=self.duration + SLACK_SECONDS
            )
        text = result.stdout.decode(errors="replace").strip()
        match = re.fullmatch(r"faults pages=(\d{1,20}) nanoseconds=([1-9]\d{0,19})", text)
        if match is None:
            raise GuestError(f"`fpr-guest faults` printed no measurement, but {text[:200]!r}")
        rate = int(match[1]) * 1e9 / int(match[2])
        guest.record.add(
            FaultRate(
                guest.record.now(), self.by, self.pages, state, rate, order=guest.reporting_order
            )
        )


def _reporting(guest: Guest) -> Literal["on", "idle", "off"]:
    """Return `on` (at work), `idle` (offered, but without a driver) or `off` (not offered)."""
    history = fold(guest.record.events)
    ready, driver = history.ready, history.driver
    if driver is not None:
        # Unbinding leaves the device in place; an unplugged device offers nothing.
        offered, at_work = driver.reporting, driver.bound
    else:
        offered = ready is not None and ready.offered
        at_work = ready is not None and ready.negotiated
    return "off" if not offered else "on" if at_work else "idle"
