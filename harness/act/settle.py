# SPDX-License-Identifier: Apache-2.0
"""Wait until the guest has reported all it can, or until it evidently will not."""

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.ledger.events import Settled
from harness.ledger.settle import SettleTracker, remaining_from_states
from harness.observe.counter_stream import read_counters
from harness.observe.page_stream import PageReader
from harness.scenario.model import SettleStep

LOOK_SECONDS = 0.1
"""Pause between looks at the host's side: cheap, and a burst of discards lasts longer."""

QUIET_SECONDS = 0.4
"""After the last discard of a burst the pass is over, and the guest's pages are worth a look."""

RESCAN_SECONDS = 1.0
"""Looks at the guest's pages while nothing happens: twice in a reporting pass."""


def settle(session: GuestSession, step: SettleStep) -> None:
    """Record how the wait ended; a deadline that passes is an outcome here, not an error."""
    session.phase("settle", f"at most {step.deadline:g} s")
    record = session.record
    start = record.now()
    deadline = Deadline(step.deadline, "the guest to report its free memory")
    tracker = SettleTracker(block_bytes=4096 << session.reporting_order)
    with PageReader(session.vm.shell) as pages:
        looked_at = -RESCAN_SECONDS
        while True:
            at = record.now() - start
            discards = session.discards.read()
            # An exact reading walks page tables; between looks at the pages the counters will do.
            held = session.mapping.read_quick().held
            remaining = None
            moved = tracker.last_moved
            due = at - looked_at >= RESCAN_SECONDS or looked_at < moved
            if due and at - moved >= QUIET_SECONDS:
                counters = read_counters(session.vm.shell)
                states = pages.read().states
                remaining = remaining_from_states(states, counters.zones, session.reporting_order)
                looked_at = at
            outcome = tracker.observe(at, held=held, discarded=discards.bytes, remaining=remaining)
            if outcome is None and deadline.passed:
                outcome = tracker.give_up()
            if outcome is not None:
                held = session.mapping.read().held
                break
            session.vm.sleep_alive(LOOK_SECONDS)
    record.add(
        Settled(
            record.now(),
            outcome=outcome,
            seconds=tracker.last_moved,
            remaining=tracker.remaining,
            held=held,
            t50=tracker.t50,
            t90=tracker.t90,
        )
    )
