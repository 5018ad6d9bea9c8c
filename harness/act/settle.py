# SPDX-License-Identifier: Apache-2.0
"""Wait until the guest has reported all it can, or until it evidently will not."""

import time
from dataclasses import dataclass
from typing import Self

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.guest.counter_stream import read_counters
from harness.guest.page_stream import PageReader
from harness.kernel.settling import (
    SettleOutcome,
    SettleTracker,
    ZoneDrains,
    merging,
    remaining_by_zone,
)
from harness.kernel.zones import REPORTING_CAPACITY, block_size
from harness.machine.vm import VirtualMachine
from harness.observe.discards import DiscardLog
from harness.observe.mapping import HostMappingReader
from harness.record.events import Settled
from harness.scenario.steps import SettleStep

LOOK_SECONDS = 0.1
"""Pause between looks at the host's side: cheap, and a burst of discards lasts longer."""

QUIET_SECONDS = 0.4
"""After the last discard of a burst the pass is over, and the guest's pages are worth a look."""

RESCAN_SECONDS = 1.0
"""Looks at the guest's pages while nothing happens: twice in a reporting pass."""


@dataclass(frozen=True)
class Watched:
    """What a wait needs of a guest."""

    vm: VirtualMachine
    mapping: HostMappingReader
    discards: DiscardLog
    reporting_order: int

    @classmethod
    def of(cls, session: GuestSession) -> Self:
        """The guest under test."""
        return cls(session.vm, session.mapping, session.discards, session.reporting_order)


@dataclass(frozen=True)
class Wait:
    """How a wait ended; seconds since it began, bytes."""

    outcome: SettleOutcome
    tracker: SettleTracker
    held: int
    zone_t90: dict[str, float]


def settle(session: GuestSession, step: SettleStep) -> None:
    """Record how the wait ended; a deadline that passes is an outcome here, not an error."""
    session.phase("settle", f"at most {step.deadline:g} s")
    leave = step.leave_batches * REPORTING_CAPACITY * block_size(session.reporting_order)
    wait = wait_settled(Watched.of(session), step.deadline, leave)
    session.record.add(
        Settled(
            session.record.now(),
            outcome=wait.outcome,
            seconds=wait.tracker.last_moved,
            remaining=wait.tracker.remaining,
            held=wait.held,
            t50=wait.tracker.t50,
            t90=wait.tracker.t90,
            zone_t90=wait.zone_t90,
        )
    )
    if wait.outcome is SettleOutcome.DRAINED:
        session.drained_to = wait.tracker.remaining


def wait_settled(guest: Watched, seconds: float, leave: int = 0) -> Wait:
    """Wait at most so long, until no more than `leave` bytes can be reported or nothing moves."""
    start = time.monotonic()
    deadline = Deadline(seconds, "the guest to report its free memory")
    block = block_size(guest.reporting_order)
    tracker, drains = SettleTracker(block_bytes=block, leave=leave), ZoneDrains()
    with PageReader(guest.vm.shell) as pages:
        looked_at = -RESCAN_SECONDS
        while True:
            at = time.monotonic() - start
            discards = guest.discards.read()
            # An exact reading walks page tables; between looks at the pages the counters will do.
            held = guest.mapping.read_quick().held
            remaining, about_to = None, 0
            moved = tracker.last_moved
            due = at - looked_at >= RESCAN_SECONDS or looked_at < moved
            if due and (at - moved >= QUIET_SECONDS or at - looked_at >= 2 * RESCAN_SECONDS):
                counters = read_counters(guest.vm.shell)
                states = pages.read().states
                zones = remaining_by_zone(states, counters.zones, guest.reporting_order)
                drains.look(at, zones)
                remaining = sum(zones.values())
                if remaining <= leave:
                    about_to = merging(states, counters.zones, guest.reporting_order)
                looked_at = at
            outcome = tracker.observe(
                at, held=held, discarded=discards.bytes, remaining=remaining, merging=about_to
            )
            if outcome is None and deadline.passed:
                outcome = tracker.give_up()
            if outcome is not None:
                return Wait(outcome, tracker, guest.mapping.read().held, drains.t90(block + leave))
            guest.vm.sleep_alive(LOOK_SECONDS)
