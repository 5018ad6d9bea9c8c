# SPDX-License-Identifier: Apache-2.0
"""Client of the guest tool's `race`; the head of guest-images/tool/race.c describes its lines."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.guest.churn_client import OUT_OF_MEMORY
from harness.guest.held_pages import Mismatches, Verified, read_verified
from harness.guest.tool_lines import ToolOutput
from harness.machine.interfaces import GuestShell

SEED = 1 << 32
"""Above the seeds of churn, so that no page of one can pass for a page of the other."""


@dataclass(frozen=True)
class RaceRound:
    """One window of memory, freed and allocated again."""

    reported_bytes: int
    """Bytes of the window seen reported when the tool began to allocate."""
    reused_bytes: int
    """The part of `reported_bytes` that the tool allocated."""
    taken_seconds: float
    """How long allocating and writing the whole window took."""
    early_bytes: int
    """Bytes in blocks that were marked as reported before the host can have discarded them."""


@dataclass(frozen=True)
class RaceReport:
    """The result of a race."""

    rounds: tuple[RaceRound, ...]
    verified: Verified
    """The final check of everything held; its mismatches and damage include all earlier checks."""


def run_race(
    shell: GuestShell,
    *,
    cushion: int,
    window: int,
    rounds: int,
    wait_seconds: float,
    hold_seconds: float,
    pass_seconds: float,
    slow_seconds: float,
    begin: Callable[[], None],
    fill_timeout: float,
    round_timeout: float,
) -> RaceReport:
    """Run a race to its end.

    `cushion`, `window`: bytes, whole huge pages; `wait_seconds`: longest wait for a report in each
    round; `hold_seconds`: how long each round holds the window; `pass_seconds`: between two passes;
    `slow_seconds`: how long the host takes for a discard, 0.0 where it is not slowed down; `begin`:
    called when all memory is held; `fill_timeout`, `round_timeout`: deadlines in seconds.

    Raises `GuestError`, `ToolCrashedError`, `SshError`, `DeadlineError`.
    """
    command = (
        f"fpr-guest race --cushion {cushion} --window {window} --rounds {rounds} --seed {SEED} "
        f"--wait-ms {wait_seconds * 1000:.0f} --hold-ms {hold_seconds * 1000:.0f} "
        f"--pass-ms {pass_seconds * 1000:.0f} --slow-ms {slow_seconds * 1000:.0f}"
    )
    mismatches, seen = Mismatches(), []
    with shell.start(command) as process:
        lines = ToolOutput(process, "the race tool", OUT_OF_MEMORY)
        held = int(lines.await_line("filled", fill_timeout, mismatches).value("bytes"))
        begin()
        for _round in range(rounds):
            line = lines.await_line("raced", round_timeout, mismatches)
            seen.append(
                RaceRound(
                    reported_bytes=int(line.value("reported_bytes")),
                    reused_bytes=int(line.value("reused_bytes")),
                    taken_seconds=line.value("taken_ns") / 1e9,
                    early_bytes=int(line.value("early_bytes")),
                )
            )
        verified = read_verified(lines, round_timeout, mismatches, held)
    return RaceReport(tuple(seen), verified)
