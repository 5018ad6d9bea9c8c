# SPDX-License-Identifier: Apache-2.0
"""Run processes in the guest that allocate and free memory during other steps."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from harness.act.guest import Guest, Kept
from harness.errors import ScenarioError, SshError
from harness.guest.churn_client import OUT_OF_MEMORY
from harness.guest.counter_stream import read_counters
from harness.guest.held_pages import Mismatches
from harness.guest.tool_lines import ToolOutput
from harness.kernel.zones import REPORTING_CAPACITY, block_size
from harness.record.events import BusyEnded, BusyStarted, ChurnVerified
from harness.scenario.fields import BusySize, Seconds
from harness.scenario.steps import Situation, Verb
from harness.units import PAGE_SIZE, format_size
from harness.yamlfile import Loc

FIRST_ROUND_SECONDS = 120.0
CALM_SECONDS = 60.0
"""Seconds for a process to finish its current round."""

IS_BUSY = "busy"


class Busy(Verb):
    """Starts a process that repeats until `calm`: it allocates memory, writes every page in full,
    holds it, verifies it, frees it, and idles. The next step begins after its first round.
    """

    verb: ClassVar[str] = "busy"
    real_clock: ClassVar[str] = "it must work at the same time as reporting does, on another vCPU"
    size: BusySize
    """A share of memory, a size, or one of two words. `batch` is 32 blocks, the capacity of one
    report. `all-but-half-a-batch` is the free memory above the minimum watermarks less half a
    batch, which can be allocated unless a batch is isolated for reporting."""
    hold: Seconds = 0.0
    """How long it holds the memory before it verifies and frees it."""
    idle: Seconds = 0.0
    """How long it idles before the next round."""

    def after(self, before: Situation) -> Situation:
        """Note that a process is busy."""
        return before.having(IS_BUSY)

    def perform(self, guest: Guest) -> None:
        """Start the process and wait for its first round.

        Raises `GuestError`, `DeadlineError`, `ScenarioError`.
        """
        size = _size(guest, self.size)
        guest.phase("busy", f"{format_size(size)} over and over")
        process = guest.vm.shell.start(
            f"fpr-guest busy --bytes {size} --hold-ms {self.hold * 1000:.0f} "
            f"--idle-ms {self.idle * 1000:.0f}"
        )
        task = Task(ToolOutput(process, "a busy process", OUT_OF_MEMORY), size)
        guest.kept(Processes).running.append(task)
        task.lines.await_line("busy", FIRST_ROUND_SECONDS + self.hold, task.mismatches)
        guest.record.add(BusyStarted(guest.record.now(), size))


class Calm(Verb):
    """Ends all processes that `busy` started, and records the mismatches they found. If one has
    ended by itself, the run is an ERROR.
    """

    verb: ClassVar[str] = "calm"

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that a process is busy."""
        if IS_BUSY not in before.facts:
            yield (), "nothing is busy here; put `busy` before it"

    def after(self, before: Situation) -> Situation:
        """Note that no process is busy."""
        return before.lacking(IS_BUSY)

    def perform(self, guest: Guest) -> None:
        """End the processes. Raises `GuestError` if one has already ended, `DeadlineError`."""
        guest.phase("calm")
        running = guest.kept(Processes).running
        while running:
            verified, rounds = _end(running.pop(), guest.record.now)
            guest.record.add(verified)
            guest.record.add(BusyEnded(guest.record.now(), rounds))


@dataclass(frozen=True)
class Task:
    """One process that allocates and frees memory."""

    lines: ToolOutput
    size: int
    """Bytes that it allocates in each round."""
    mismatches: Mismatches = field(default_factory=Mismatches)


class Processes(Kept):
    """The busy processes that are running."""

    def __init__(self) -> None:
        self.running: list[Task] = []

    def close(self) -> None:
        """End all of them."""
        for task in self.running:
            task.lines.process.close()


def _size(guest: Guest, size: BusySize) -> int:
    batch = REPORTING_CAPACITY * block_size(guest.reporting_order)
    match size:
        case "batch":
            return batch
        case "all-but-half-a-batch":
            zones = read_counters(guest.vm.shell).zones
            free = sum(max(0, zone.free - zone.min) for zone in zones) * PAGE_SIZE - batch // 2
            if free <= 0:
                raise ScenarioError(
                    f"the guest has less than half a batch ({format_size(batch // 2)}) free above "
                    "its minimum watermarks",
                    hint="give the guest more memory, or hold less memory before this step",
                )
            return free
        case share:
            return share.of(guest.vm.spec.memory)


def _end(task: Task, now: Callable[[], float]) -> tuple[ChurnVerified, int]:
    """Let a process finish its round; returns what it verified, and its number of rounds.

    Raises `GuestError`, `DeadlineError`.
    """
    with task.lines.process as process:
        with contextlib.suppress(SshError):
            process.close_stdin()
        line = task.lines.await_line("done", CALM_SECONDS, task.mismatches)
    rounds, checked = int(line.value("rounds")), int(line.value("checked_bytes"))
    verified = ChurnVerified(
        now(),
        bytes=checked,
        mismatched_pages=int(line.value("mismatched_pages")),
        detail=tuple(task.mismatches.words),
        unchecked=max(0, rounds * task.size - checked),
        by="busy",
    )
    return verified, rounds
