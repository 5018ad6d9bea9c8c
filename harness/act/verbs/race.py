# SPDX-License-Identifier: Apache-2.0
"""Allocate blocks again as soon as they have been reported, and verify their contents."""

from typing import Annotated, ClassVar

from pydantic import Field, StrictInt

from harness.act.guest import Guest
from harness.errors import PreconditionError
from harness.guest.counter_stream import read_counters
from harness.guest.race_client import run_race
from harness.kernel.zones import HUGE_PAGE, REPORTING_CAPACITY, Zone, above_watermark, block_size
from harness.machine.interfaces import CommandResult
from harness.machine.interposer import SLOW_SECONDS, slow_from
from harness.record.events import ChurnVerified, Raced
from harness.scenario.steps import Verb
from harness.units import MIB, PAGE_SIZE

SLACK = 24 * MIB
"""Free memory above the low watermarks that is left to other processes of the guest."""

PASSES = 2
"""Passes that a round waits for a report, plus `GRACE_SECONDS` at the guest's usual pace, before it
gives up racing."""
GRACE_SECONDS = 3.0

HOLD_SECONDS = 0.5
"""Time between the last round and the last verification."""

FILL_SECONDS = 120.0
ROUND_SECONDS = 60.0
"""Time for allocating a window and verifying all memory, in addition to the wait."""

_HUGE_PAGES = "cat /sys/kernel/mm/transparent_hugepage/enabled"


class Race(Verb):
    """Fills nearly all free memory with a pattern. In each round it frees a batch, waits until the
    guest has reported blocks of it, and at once allocates as much again, which is those blocks.
    Held memory is verified in every round, so that a late discard is found. Without transparent
    huge pages, which it needs to allocate whole blocks, the run is a SKIP.
    """

    verb: ClassVar[str] = "race"
    real_clock: ClassVar[str] = (
        "a task takes blocks while the host still discards them, which needs vCPUs and "
        "host at work at the same time"
    )
    rounds: Annotated[StrictInt, Field(ge=1, le=100)] = 4
    """Number of rounds; each takes a little longer than the delay between two reporting passes."""

    def expected_seconds(self, memory: int) -> float:
        """Estimate one pass for each round, plus the time to write all of the guest's memory."""
        return 4.0 + memory / (128 * MIB) + 3.0 * self.rounds

    def perform(self, guest: Guest) -> None:
        """Race, unless all zones are below their watermarks; mismatches are recorded, not raised.

        Raises `GuestError`, `SshError`, `DeadlineError`, `PreconditionError`.
        """
        guest.phase("race", f"{self.rounds} rounds")
        shell = guest.vm.shell
        _check_huge_pages(shell.run(_HUGE_PAGES, check=False), guest.vm.kernel_release)
        order = guest.reporting_order
        zones = [z for z in read_counters(shell).zones if above_watermark(z, order)]
        if not zones:
            guest.phase("race", "skipped: all zones are below the watermark for reporting")
            return
        slow = guest.vm.spec.discard == "slow"
        # A batch, and what was free besides.
        away = 2 * REPORTING_CAPACITY * SLOW_SECONDS if slow else 0.0
        seconds = PASSES * guest.pass_seconds + GRACE_SECONDS * guest.vm.pace + away
        slowly = slow_from(guest.vm.directory)
        try:
            report = run_race(
                shell,
                cushion=_cushion(zones),
                window=_whole_huge_pages(REPORTING_CAPACITY * block_size(order)),
                rounds=self.rounds,
                wait_seconds=seconds,
                hold_seconds=HOLD_SECONDS + away,
                pass_seconds=guest.pass_seconds,
                slow_seconds=SLOW_SECONDS if slow else 0.0,
                begin=slowly.touch if slow else lambda: None,
                fill_timeout=FILL_SECONDS,
                round_timeout=seconds + ROUND_SECONDS,
            )
        finally:
            # All that the tool held is reported next, and nothing more is to be learnt from that.
            slowly.unlink(missing_ok=True)
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
                early=sum(each.early_bytes for each in report.rounds) if slow else None,
            )
        )


def _cushion(zones: list[Zone]) -> int:
    """Return the bytes to leave free, in pieces smaller than a block, for other allocations."""
    return _whole_huge_pages(sum(zone.low for zone in zones) * PAGE_SIZE + SLACK)


def _whole_huge_pages(size: int) -> int:
    return -(-size // HUGE_PAGE) * HUGE_PAGE


def _check_huge_pages(answer: CommandResult, kernel: str) -> None:
    """Raise `PreconditionError` unless the guest's processes can get transparent huge pages."""
    if answer.status:
        raise PreconditionError(f"the guest's kernel ({kernel}) has no transparent huge pages")
    if b"[never]" in answer.stdout:
        raise PreconditionError(
            "transparent huge pages are off in the guest, as its kernel leaves them in less than "
            "512 MiB of usable memory",
            hint="give it more with --set guest.memory=SIZE, or transparent_hugepage=always in "
            "guest.cmdline",
        )
