# SPDX-License-Identifier: Apache-2.0
"""Wait until the guest has reported all it can, or until reporting no longer makes progress."""

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest, Kept, Watched
from harness.deadline import Deadline
from harness.guest.counter_stream import read_counters
from harness.guest.page_stream import PageReader
from harness.kernel.settling import (
    IDLE_PASSES,
    SettleOutcome,
    SettleTracker,
    ZoneDrains,
    merging,
    remaining_by_zone,
)
from harness.kernel.zones import PASS_SECONDS, REPORTING_CAPACITY, block_size
from harness.record.events import Settled
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb
from harness.units import PAGE_SIZE

LOOK_SECONDS = 0.1
"""Pause between looks at the host's counters, which are cheap to read."""

QUIET_SECONDS = 0.4
"""Seconds without a discard after which a pass counts as over, and the guest's pages are read."""

RESCAN_SECONDS = 1.0
"""Interval at which the guest's pages are read while nothing moves, twice in a reporting pass."""


LEAST_LOOKS = 10
"""Under the virtual clock, looks before the guest's time is up: between two of them may be more of
its seconds than the deadline has."""


class Settle(Verb):
    """Waits until no reportable memory remains, or nothing has moved for more than two reporting
    passes. A deadline that passes is an outcome, not an error.
    """

    verb: ClassVar[str] = "settle"
    deadline: Seconds = 60.0
    """The longest wait, longer in proportion if the guest's passes are more than 2 s apart; by the
    guest's clock, and also by the host's."""
    leave_batches: Annotated[StrictInt, Field(ge=0, le=64)] = 0
    """Number of batches that may remain reportable, for a guest that `busy` keeps busy."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time: most guests settle within a few passes."""
        return min(6.0, self.deadline)

    def perform(self, guest: Guest) -> None:
        """Wait, and record the outcome. Raises what the instruments raise."""
        guest.phase("settle", f"at most {self.deadline:g} s")
        leave = self.leave_batches * REPORTING_CAPACITY * block_size(guest.reporting_order)
        wait = wait_settled(guest, self.deadline, leave)
        guest.record.add(
            Settled(
                guest.record.now(),
                outcome=wait.outcome,
                seconds=wait.tracker.last_moved,
                remaining=wait.tracker.remaining,
                held=wait.held,
                t50=wait.tracker.t50,
                t90=wait.tracker.t90,
                zone_t90=wait.zone_t90,
                clock_rate=wait.tracker.clock_rate,
            )
        )
        if wait.left is not None:
            guest.kept(Drained).note(guest, wait.left)


class Drained(Kept):
    """The bytes that remained reportable when the guest settled, for the next step."""

    def __init__(self) -> None:
        self._remaining = 0
        self._phase: int | None = None

    def note(self, guest: Guest, remaining: int) -> None:
        """Note that it settled in the current phase, and left `remaining` bytes."""
        self._remaining, self._phase = remaining, guest.phases

    def remaining(self, guest: Guest) -> int | None:
        """Return the bytes; None if the current phase is not one in which it settled."""
        return self._remaining if self._phase == guest.phases else None


@dataclass(frozen=True)
class Wait:
    """How a wait ended: times in seconds since it began, sizes in bytes."""

    outcome: SettleOutcome
    tracker: SettleTracker
    held: int
    zone_t90: dict[str, float]
    batch: int
    """32 blocks of the guest's order."""

    @property
    def left(self) -> int | None:
        """Bytes that may rightly be reportable and with the host: those it was told to leave. Where
        nothing moves any more, the little that remains is with the host no longer: blocks that
        merged when they were put back, of which no pass is told. None where a second wait would
        find the same: it was still moving, or more than a batch stays.
        """
        remaining = self.tracker.remaining
        if self.outcome is SettleOutcome.DRAINED:
            return remaining
        if self.outcome is SettleOutcome.MOVING or remaining is None:
            return None
        return 0 if remaining <= self.batch else None


def wait_settled(guest: Watched, seconds: float, leave: int = 0) -> Wait:
    """Wait until no more than `leave` bytes are reportable, or nothing moves.

    The deadline of `seconds` assumes passes every 2 s, and is extended in proportion if they are
    further apart. Raises what the instruments raise.
    """
    mapping, discarding = guest.instruments.mapping, guest.instruments.discards
    start = time.monotonic()
    slower = max(1.0, guest.pass_seconds / PASS_SECONDS)
    deadline = Deadline(seconds * slower, "the guest to report its free memory")
    block = block_size(guest.reporting_order)
    virtual = guest.vm.spec.clock == "virtual"
    tracker = SettleTracker(block, leave=leave, pass_seconds=guest.pass_seconds, virtual=virtual)
    drains = ZoneDrains()
    idle = IDLE_PASSES * guest.pass_seconds
    memory = guest.vm.spec.memory + guest.vm.spec.hotplug
    with PageReader(guest.vm.shell, memory // PAGE_SIZE) as pages:
        looked_at = -RESCAN_SECONDS
        looks = 0
        while True:
            at = time.monotonic() - start
            discards = discarding.read()
            # An exact reading walks page tables; the counters suffice to see whether memory moves.
            held = mapping.read_quick().held
            remaining, about_to, guest_at = None, 0, None
            moved = tracker.last_moved
            due = (
                at - looked_at >= RESCAN_SECONDS
                or looked_at < moved
                or at - moved > idle >= looked_at - moved
            )
            quiet = at - moved >= QUIET_SECONDS or at - looked_at >= 2 * RESCAN_SECONDS
            if virtual or (due and quiet):
                looks += 1
                counters = read_counters(guest.vm.shell)
                reading = pages.read()
                states, guest_at = reading.states, reading.start_ns / 1e9
                zones = remaining_by_zone(states, counters.zones, guest.reporting_order)
                drains.look(at, zones)
                remaining = sum(zones.values())
                if remaining <= leave:
                    about_to = merging(states, counters.zones, guest.reporting_order)
                looked_at = at
            outcome = tracker.observe(
                at,
                held=held,
                discarded=None if discards is None else discards.bytes,
                remaining=remaining,
                merging=about_to,
                guest_at=guest_at,
            )
            late = virtual and looks >= LEAST_LOOKS and tracker.guest_seconds > seconds * slower
            if outcome is None and (deadline.passed or late):
                outcome = tracker.give_up()
            if outcome is not None:
                return Wait(
                    outcome,
                    tracker,
                    mapping.read().held,
                    drains.t90(block + leave),
                    REPORTING_CAPACITY * block,
                )
            guest.vm.pass_time(guest.pass_seconds if virtual else LOOK_SECONDS)
