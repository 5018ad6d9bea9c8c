# SPDX-License-Identifier: Apache-2.0
"""Processes in the guest that take and free memory while other steps go on."""

import re

from harness.act.session import GuestSession
from harness.errors import GuestError, ScenarioError, SshError
from harness.guest.counter_stream import read_counters
from harness.guest.tool_end import last_words
from harness.kernel.zones import REPORTING_CAPACITY, block_size
from harness.record.events import BusyEnded, BusyStarted
from harness.scenario.steps import BusyStep, CalmStep
from harness.units import PAGE_SIZE, format_size

FIRST_ROUND_SECONDS = 120.0
CALM_SECONDS = 60.0
"""A round under way is finished first."""


def busy(session: GuestSession, step: BusyStep) -> None:
    """Start one, and return when it has been round once. Raises `GuestError`, `DeadlineError`."""
    size = _size(session, step)
    session.phase("busy", f"{format_size(size)} over and over")
    process = session.vm.shell.start(
        f"fpr-guest busy --bytes {size} --hold-ms {step.hold * 1000:.0f} "
        f"--idle-ms {step.idle * 1000:.0f}"
    )
    session.busy.append(process)
    try:
        process.read_line(FIRST_ROUND_SECONDS + step.hold)
    except SshError as error:
        raise GuestError(f"the busy process ended at once: {last_words(process, error)}") from error
    session.record.add(BusyStarted(session.record.now(), size))


def _size(session: GuestSession, step: BusyStep) -> int:
    batch = REPORTING_CAPACITY * block_size(session.reporting_order)
    match step.size:
        case "batch":
            return batch
        case "all-but-half-a-batch":
            zones = read_counters(session.vm.shell).zones
            size = sum(max(0, zone.free - zone.min) for zone in zones) * PAGE_SIZE - batch // 2
            if size <= 0:
                raise ScenarioError(
                    f"the guest has not half a batch ({format_size(batch // 2)}) free above its "
                    "minimum watermarks",
                    hint="give it more memory, or hold less before this step",
                )
            return size
        case share:
            return share.of(session.vm.spec.memory)


def calm(session: GuestSession, _step: CalmStep) -> None:
    """End them all. Raises `GuestError` for one that was gone already."""
    session.phase("calm")
    while session.busy:
        process = session.busy.pop()
        with process:
            try:
                process.close_stdin()
                line = process.read_line(CALM_SECONDS)
            except SshError as error:
                words = last_words(process, error)
                raise GuestError(f"a busy process ended before `calm`: {words}") from error
        rounds = re.search(r"rounds=(\d{1,20})$", line)
        if rounds is None:
            raise GuestError(f"a busy process ended with {line!r}, without its rounds")
        session.record.add(BusyEnded(session.record.now(), int(rounds[1])))
