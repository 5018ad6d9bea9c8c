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
    BETWEEN_PASSES_SECONDS,
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
                clock_rate=None if guest.vm.spec.clock == "virtual" else wait.tracker.clock_rate,
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
    memory = guest.vm.spec.memory + guest.vm.spec.hotplug
    with PageReader(guest.vm.shell, memory // PAGE_SIZE) as pages:
        waiting = _Waiting(guest, pages, leave, seconds)
        if guest.vm.spec.clock == "virtual":
            return waiting.end(waiting.by_passes())
        return waiting.end(waiting.by_both_clocks())


class _Waiting:
    """One wait: what it looks at, and when."""

    def __init__(self, guest: Watched, pages: PageReader, leave: int, seconds: float) -> None:
        self._guest = guest
        self._pages = pages
        self._leave = leave
        self._seconds = seconds * max(1.0, guest.pass_seconds / PASS_SECONDS)
        self._deadline = Deadline(self._seconds, "the guest to report its free memory")
        self._start = time.monotonic()
        self._block = block_size(guest.reporting_order)
        self._virtual = guest.vm.spec.clock == "virtual"
        self._tracker = SettleTracker(
            self._block, leave=leave, pass_seconds=guest.pass_seconds, virtual=self._virtual
        )
        self._drains = ZoneDrains()
        self._passed = 0.0
        """Seconds of the guest that it was told to sleep."""

    def by_both_clocks(self) -> SettleOutcome:
        """Look at the host's counters often, and at the guest's pages between passes."""
        looked_at = -RESCAN_SECONDS
        idle = IDLE_PASSES * self._guest.pass_seconds
        while True:
            at, moved = self._now, self._tracker.last_moved
            due = (
                at - looked_at >= RESCAN_SECONDS
                or looked_at < moved
                or at - moved > idle >= looked_at - moved
            )
            quiet = at - moved >= QUIET_SECONDS or at - looked_at >= 2 * RESCAN_SECONDS
            if due and quiet:
                looked_at = at
            outcome = self._observe(at, pages=looked_at == at)
            if outcome is not None:
                return outcome
            if self._deadline.passed:
                return self._tracker.give_up()
            self._guest.vm.pass_time(LOOK_SECONDS)

    def by_passes(self) -> SettleOutcome:
        """Let the guest sleep as long as a wait without movement takes, and look at its pages then:
        its seconds cost nothing, and a look does.
        """
        self._observe(0.0, pages=False)
        looks = 0
        while True:
            looks += 1
            self._sleep(IDLE_PASSES * self._guest.pass_seconds + BETWEEN_PASSES_SECONDS)
            moved = self._tracker.last_moved
            self._observe(self._now, pages=False)
            if self._tracker.last_moved > moved:
                # A pass may be under way, and none of its blocks is free.
                self._sleep(2 * BETWEEN_PASSES_SECONDS)
            outcome = self._observe(self._now, pages=True)
            # That what remains has not become less takes a second look at it.
            if outcome is SettleOutcome.DRAINED or (outcome is not None and looks > 1):
                return outcome
            if self._passed > self._seconds or self._deadline.passed:
                return self._tracker.give_up()

    def end(self, outcome: SettleOutcome) -> Wait:
        """Say how it ended."""
        return Wait(
            outcome,
            self._tracker,
            self._guest.instruments.mapping.read().held,
            self._drains.t90(self._block + self._leave),
            REPORTING_CAPACITY * self._block,
        )

    @property
    def _now(self) -> float:
        return time.monotonic() - self._start

    def _sleep(self, seconds: float) -> None:
        self._guest.vm.pass_time(seconds)
        self._passed += seconds

    def _observe(self, at: float, *, pages: bool) -> SettleOutcome | None:
        """Look at the host, and also at the guest's pages if asked to."""
        discards = self._guest.instruments.discards.read()
        # An exact reading walks page tables; the counters suffice to see whether memory moves.
        held = self._guest.instruments.mapping.read_quick().held
        remaining, about_to = None, 0
        # Its own clock may have run on by any time since: what it slept has passed for certain.
        guest_at = self._passed if self._virtual else None
        if pages:
            counters = read_counters(self._guest.vm.shell)
            reading = self._pages.read()
            order = self._guest.reporting_order
            zones = remaining_by_zone(reading.states, counters.zones, order)
            self._drains.look(at, zones)
            remaining = sum(zones.values())
            if remaining <= self._leave:
                about_to = merging(reading.states, counters.zones, order)
            if not self._virtual:
                guest_at = reading.start_ns / 1e9
        return self._tracker.observe(
            at,
            held=held,
            discarded=None if discards is None else discards.bytes,
            remaining=remaining,
            merging=about_to,
            guest_at=guest_at,
        )
