# SPDX-License-Identifier: Apache-2.0
"""Divide the runs of an invocation between machines: `--shard I/N`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from harness.errors import UsageError
from harness.run.plan import PlannedRun
from harness.run.pool import Room

MOST_SHARDS = 1000

_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `I/N`. Raises `UsageError`."""
        match = _SHARD.fullmatch(text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            raise UsageError(
                f"--shard {text}: not I/N with I from 1 to N",
                hint="--shard 1/4 to --shard 4/4 divide one command between four machines",
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def runs_of_shard(runs: Sequence[PlannedRun], shard: Shard) -> list[PlannedRun]:
    """Return the runs of one part, in the order given; the parts of the same runs are disjoint and
    complete, whatever machine computes them.

    The longest run goes first to the part that has least to do, where the larger of the two shares
    counts: of all seconds, and of all memory-seconds. Raises `UsageError` if the part is empty.
    """
    if shard.count > len(runs):
        raise UsageError(
            f"--shard {shard}: too few runs to divide: {len(runs)}",
            hint=f"--shard takes at most I/{len(runs)} here",
        )
    costs = [_cost(run) for run in runs]
    seconds, memory = (sum(each) or 1.0 for each in zip(*costs, strict=True))
    loads = [(0.0, 0.0)] * shard.count
    mine: set[int] = set()
    for place in sorted(range(len(runs)), key=lambda n: (-costs[n][0], runs[n].run_id, n)):
        after = [(load[0] + costs[place][0], load[1] + costs[place][1]) for load in loads]
        number = min(
            range(shard.count),
            key=[max(load[0] / seconds, load[1] / memory) for load in after].__getitem__,
        )
        loads[number] = after[number]
        if number == shard.number - 1:
            mine.add(place)
    return [run for place, run in enumerate(runs) if place in mine]


def _cost(run: PlannedRun) -> tuple[float, float]:
    """Return expected seconds and byte-seconds of a run."""
    length = run.scenario.expected_seconds
    return length, length * Room.for_scenario(run.scenario).memory
