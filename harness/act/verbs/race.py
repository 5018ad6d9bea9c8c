# SPDX-License-Identifier: Apache-2.0
"""Take blocks again in the moment in which they have been reported, and verify what they hold."""

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest
from harness.errors import PreconditionError
from harness.guest.counter_stream import read_counters
from harness.guest.race_client import run_race
from harness.kernel.zones import HUGE_PAGE, REPORTING_CAPACITY, Zone, above_watermark, block_size
from harness.record.events import ChurnVerified, Raced
from harness.scenario.steps import Verb
from harness.units import MIB, PAGE_SIZE

SLACK = 24 * MIB
"""Free memory beyond the low watermarks, for what else runs in the guest."""

PASSES = 2
"""That a round waits for, and `GRACE_SECONDS` more, before it goes on without having raced."""
GRACE_SECONDS = 3.0

HOLD_SECONDS = 0.5
"""From the last round to the last check."""

FILL_SECONDS = 120.0
ROUND_SECONDS = 60.0
"""For taking a window and verifying all, beside the wait."""

_HAS_HUGE_PAGES = "grep -qE '\\[(always|madvise)\\]' /sys/kernel/mm/transparent_hugepage/enabled"


class Race(Verb):
    """Holds nearly all free memory, patterned; frees a batch of it, waits until the guest has
    reported blocks of that, and takes as much again at once, which is those very blocks; and so
    again with other memory. All of it is verified until it is freed again, so that a discard which
    comes late is found. SKIP without transparent huge pages, by which the blocks are taken whole.
    """

    verb: ClassVar[str] = "race"
    rounds: Annotated[StrictInt, Field(ge=1, le=100)] = 4
    """How many times. Each takes a little longer than the guest's delay between two passes."""

    def expected_seconds(self, memory: int) -> float:
        """A pass each, and the time to write all of the guest's memory."""
        return 4.0 + memory / (128 * MIB) + 3.0 * self.rounds

    def perform(self, guest: Guest) -> None:
        """Lost pages are recorded, not raised; a guest that can report nothing is not raced. Raises
        `GuestError`, `SshError`, `DeadlineError`, `PreconditionError`.
        """
        guest.phase("race", f"{self.rounds} rounds")
        shell = guest.vm.shell
        if shell.run(_HAS_HUGE_PAGES, check=False).status:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) has no transparent huge pages"
            )
        order = guest.reporting_order
        zones = [z for z in read_counters(shell).zones if above_watermark(z, order)]
        if not zones:
            guest.phase("race", "left out: the guest can report none of its memory")
            return
        seconds = PASSES * guest.pass_seconds + GRACE_SECONDS
        report = run_race(
            shell,
            cushion=_cushion(zones),
            window=_whole_huge_pages(REPORTING_CAPACITY * block_size(order)),
            rounds=self.rounds,
            wait_seconds=seconds,
            hold_seconds=HOLD_SECONDS,
            fill_timeout=FILL_SECONDS,
            round_timeout=seconds + ROUND_SECONDS,
        )
        now, verified = guest.record.now(), report.verified
        guest.record.add(
            ChurnVerified(
                now,
                bytes=verified.checked_bytes,
                mismatched_pages=verified.mismatched_pages,
                detail=verified.details,
                unchecked=max(0, verified.held_bytes - verified.checked_bytes),
                damaged=verified.damaged,
                by="race",
            )
        )
        guest.record.add(
            Raced(
                now,
                rounds=len(report.rounds),
                reported=sum(each.reported_bytes for each in report.rounds),
                reused=sum(each.reused_bytes for each in report.rounds),
                slowest=max(each.taken_seconds for each in report.rounds),
            )
        )


def _cushion(zones: list[Zone]) -> int:
    """Bytes that stay free, in pieces below a block, so that no allocation falls short."""
    return _whole_huge_pages(sum(zone.low for zone in zones) * PAGE_SIZE + SLACK)


def _whole_huge_pages(size: int) -> int:
    return -(-size // HUGE_PAGE) * HUGE_PAGE
