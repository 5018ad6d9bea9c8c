# SPDX-License-Identifier: Apache-2.0
"""Runs of two sides in turn, A B A B, in one results directory, and what is left of them to do.

In turn, because a host changes while it measures: what warms up, fills or slows down then does so
for both.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, RecordError, UsageError
from harness.image.build import BootFiles
from harness.image.definition import ImageDefinition
from harness.machine.qemu import Qemu
from harness.record.events import Event
from harness.record.facts import Verdict
from harness.record.results_directory import write_whole
from harness.record.sides import PLAN_NAME, RUN_ID
from harness.report.summary import RunSummary
from harness.run.invocation import run_pool
from harness.run.plan import PlannedRun, RunOptions, plan_runs
from harness.run.qemus import QemuChoice
from harness.run.stop_request import StopRequest
from harness.scenario.model import Scenario

_AGAIN = frozenset({Verdict.MISS, Verdict.ERROR})
"""Verdicts of runs that are made up for when a comparison goes on."""


@dataclass(frozen=True)
class Side:
    """One side, ready to run."""

    label: str
    word: str
    """As the command line names it."""
    options: RunOptions
    scenarios: tuple[Scenario, ...]
    image: ImageDefinition
    choice: QemuChoice
    boot: BootFiles
    qemu: Qemu

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for its runs to belong together."""
        return {
            "named": self.word,
            "kernel": _sha256(self.boot.kernel),
            "QEMU": [self.qemu.version, _sha256(self.qemu.path)],
            "accelerator": self.options.accel,
            "scenarios": {
                each.name: hashlib.sha256(each.as_yaml.encode()).hexdigest()
                for each in self.scenarios
            },
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_plan(results: Path, sides: Sequence[Side]) -> None:
    """Write what is compared, for a later invocation to go on with. Raises `RecordError`."""
    document = {"schema": 1, "sides": {side.label: side.identity for side in sides}}
    write_whole(results / PLAN_NAME, json.dumps(document, indent=1).encode() + b"\n")


def check_plan(results: Path, sides: Sequence[Side]) -> None:
    """Refuse to go on with other sides than those of the runs that are there.

    Raises `UsageError`, and `RecordError` if the plan cannot be read.
    """
    path = results / PLAN_NAME
    try:
        recorded = json.loads(path.read_bytes())["sides"]
        for side in sides:
            for what, value in side.identity.items():
                if recorded[side.label][what] != value:
                    raise UsageError(
                        f"side {side.label}: its {what} is not that of the runs in {results}",
                        hint="give the command as it was, or begin anew in another directory",
                    )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"cannot read {path}: {error}", hint="begin anew in another directory"
        ) from error


def runs_left(
    sides: Sequence[Side], wanted: int, there: Iterable[RunSummary]
) -> list[tuple[Side, PlannedRun]]:
    """List the runs that are missing to `wanted` of each scenario and side, in turn.

    Those that broke are made up for, under new numbers.
    """
    numbers: dict[tuple[str, str], list[int]] = {}
    highest: dict[tuple[str, str], int] = {}
    for run in there:
        if (match := RUN_ID.fullmatch(run.run_id)) is None:
            continue
        key = match["label"], match["scenario"]
        number = int(match["number"])
        highest[key] = max(highest.get(key, 0), number)
        if run.verdict not in _AGAIN:
            numbers.setdefault(key, []).append(number)
    queues = [
        _numbered(side, scenario, first=highest.get(key, 0) + 1, count=wanted - len(done))
        for scenario in sides[0].scenarios
        for side in sides
        for key in [(side.label, scenario.name)]
        for done in [numbers.get(key, [])]
    ]
    return list(_in_turn(queues))


def _numbered(
    side: Side, scenario: Scenario, *, first: int, count: int
) -> list[tuple[Side, PlannedRun]]:
    own = next(each for each in side.scenarios if each.name == scenario.name)
    (plan,) = plan_runs([own], [side.image], 1, [side.choice])
    return [
        (
            side,
            replace(plan, run_id=f"{own.name}+{side.label}#{number}", number=number),
        )
        for number in range(first, first + count)
    ]


def _in_turn(
    queues: Sequence[Sequence[tuple[Side, PlannedRun]]],
) -> Iterator[tuple[Side, PlannedRun]]:
    """Take one of each in turn; a shorter one begins later, so that all end together."""
    longest = max(map(len, queues), default=0)
    for place in range(longest):
        yield from (q[place - longest] for q in queues if place - longest >= -len(q))


def run_in_turn(
    results: Path,
    runs: Sequence[tuple[Side, PlannedRun]],
    observers: Sequence[Callable[[str, Event], None]],
    request: StopRequest,
    note: Callable[[str], None],
) -> None:
    """Run one after the other, until all are done or the request to stop is made.

    Raises `RecordError`.
    """
    sides = {side.label: side for side, _run in runs}
    with contextlib.ExitStack() as pools:
        opened = {}
        for label, side in sides.items():
            boots: Mapping[str, BootFiles | HarnessError] = {side.image.name: side.boot}
            qemus: Mapping[str, Qemu | HarnessError] = {side.choice.name: side.qemu}
            opened[label] = pools.enter_context(
                run_pool(
                    results, side.options, boots, qemus, 1, observers, request, note, alone=True
                )
            )
        for side, run in runs:
            if request.made:
                return
            opened[side.label].submit(run).result()
