# SPDX-License-Identifier: Apache-2.0
"""Measure how many page faults a second the guest can take."""

import re
from typing import Literal

from harness.act.session import GuestSession
from harness.errors import GuestError
from harness.record.events import DriverChanged, FaultRate, GuestReady
from harness.scenario.steps import FaultRateStep

SLACK_SECONDS = 30.0


def fault_rate(session: GuestSession, step: FaultRateStep) -> None:
    """One measurement, in the state reporting is in. Raises `GuestError`, `DeadlineError`."""
    state = _reporting(session)
    session.phase("fault_rate", f"{step.by}, {step.pages} pages, reporting {state}")
    result = session.vm.shell.run(
        f"fpr-guest faults --by {step.by} --pages {step.pages} --ms {step.duration * 1000:.0f}",
        timeout=step.duration + SLACK_SECONDS,
    )
    text = result.stdout.decode(errors="replace").strip()
    match = re.fullmatch(r"faults pages=(\d{1,20}) nanoseconds=([1-9]\d{0,19})", text)
    if match is None:
        raise GuestError(f"the guest tool measured no faults: it said {text[:200]!r}")
    rate = int(match[1]) * 1e9 / int(match[2])
    session.record.add(FaultRate(session.record.now(), step.by, step.pages, state, rate))


def _reporting(session: GuestSession) -> Literal["on", "idle", "off"]:
    """At work; offered, but without a driver; not offered."""
    state: Literal["on", "idle", "off"] = "off"
    for event in session.record.events:
        if isinstance(event, GuestReady):
            state = "on" if event.negotiated else "idle" if event.offered else "off"
        elif isinstance(event, DriverChanged):
            # An unbound driver leaves the device; a device unplugged offers nothing.
            state = "on" if event.bound else "idle"
            if not event.reporting:
                state = "off"
    return state
