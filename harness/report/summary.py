# SPDX-License-Identifier: Apache-2.0
"""Derive summary.json and the exit status from the recorded events of all runs."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.errors import InterruptedRunError
from harness.record.events import Broke, Event, GuestReady, Judged, RunStarted
from harness.record.facts import Cause, Verdict
from harness.record.results_directory import write_whole
from harness.record.run_plan import Quarantined

SCHEMA = 1

NO_VERDICT = "the record ends before a verdict: the harness was killed, or could not write more"


@dataclass(frozen=True)
class RunSummary:
    """The last attempt of one run; None stands for facts that it ended too early to know."""

    run_id: str
    """Also the name of the run's directory beside results.jsonl."""
    scenario: str
    image: str
    attempt: int
    kernel: str | None = None
    accel: str | None = None
    clock: str | None = None
    qemu: str | None = None
    verdict: Verdict = Verdict.MISS
    cause: Cause | None = None
    reason: str = NO_VERDICT
    hint: str = ""
    """What to do next, from the error that ended the run."""
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    """A measure that was not taken is absent."""
    interrupted: bool = False
    """Whether it was stopped on request, so that it says nothing. Not in summary.json."""
    answer: dict[str, float] = field(default_factory=dict)
    """The measures that answer the scenario's question. Not in summary.json."""
    failed: tuple[str, ...] = ()
    """A sentence for each expectation that does not hold. Not in summary.json."""
    qemu_name: str = ""
    """Name of the QEMU on the command line. Not in summary.json."""
    discard: str | None = None
    """The host's discard policy, `dontneed` or `free`. Not in summary.json."""
    quarantine: Quarantined | None = None
    """Who sees to it, if it does not make the exit status."""
    wall: str = ""
    """When it began: UTC, ISO 8601. Not in summary.json."""

    @property
    def outcome(self) -> str:
        """Its verdict and cause in words."""
        return f"{self.verdict} {self.cause}" if self.cause else str(self.verdict)

    @property
    def stopped_early(self) -> bool:
        """Whether it was stopped before its guest was ready: there is nothing to show of it."""
        return self.interrupted and self.verdict is Verdict.MISS and self.kernel is None


@dataclass(frozen=True)
class Summary:
    """All runs of an invocation, in the order in which they began."""

    runs: tuple[RunSummary, ...]


MANY_STOPPED = 10
"""Runs that were stopped early: so many have a row each, more are only counted."""


def build_summary(events: Iterable[tuple[str, Event]]) -> Summary:
    """Summarise each run; one whose record ends without a verdict is a MISS."""
    runs: dict[str, RunSummary] = {}
    for run_id, event in events:
        if isinstance(event, RunStarted):
            runs[run_id] = RunSummary(
                run_id,
                event.scenario,
                event.image,
                event.attempt,
                qemu=event.qemu_version or None,
                qemu_name=event.qemu,
                quarantine=event.plan.quarantine if event.plan is not None else None,
                wall=event.wall,
            )
        elif run_id in runs:
            runs[run_id] = _after(runs[run_id], event)
    return Summary(tuple(runs.values()))


def _after(run: RunSummary, event: Event) -> RunSummary:
    run = replace(run, seconds=max(run.seconds, event.t))
    if isinstance(event, GuestReady):
        return replace(
            run,
            kernel=event.kernel,
            accel=event.accel,
            clock=event.clock,
            qemu=event.qemu,
            discard=event.discard,
        )
    if isinstance(event, Broke):
        interrupted = event.error == InterruptedRunError.__name__
        return replace(run, hint=event.hint, interrupted=interrupted)
    if isinstance(event, Judged):
        return replace(
            run,
            verdict=event.verdict,
            cause=event.cause,
            reason=event.reason,
            seconds=event.t,
            measures=event.measures,
            answer=event.answer,
            failed=event.failed,
        )
    return run


def write_summary(summary: Summary, path: Path) -> None:
    """Write summary.json atomically. Raises `RecordError`."""
    document = {"schema": SCHEMA, "runs": [_as_json(run) for run in summary.runs]}
    write_whole(path, json.dumps(document, indent=2).encode() + b"\n")


def _as_json(run: RunSummary) -> dict[str, object]:
    return {
        "scenario": run.scenario,
        "image": run.image,
        "kernel": run.kernel,
        "accel": run.accel,
        "clock": run.clock,
        "qemu": run.qemu,
        "verdict": run.verdict,
        "cause": run.cause,
        "reason": run.reason,
        "seconds": round(run.seconds, 3),
        "measures": {name: plain_number(name, value) for name, value in run.measures.items()},
        **({"attempts": run.attempt} if run.attempt > 1 else {}),
        **({"quarantine": asdict(run.quarantine)} if run.quarantine is not None else {}),
    }


def plain_number(name: str, value: float) -> float | int:
    """Turn a measure's value into an integer if it counts bytes, pages or events."""
    continuous = name.endswith(("_seconds", "_fraction"))
    return int(value) if not continuous and float(value).is_integer() else value


def status_of(runs: Iterable[RunSummary]) -> int:
    """Return the exit status of runs, of which those in quarantine do not count; see below."""
    return exit_status(run.verdict for run in runs if run.quarantine is None)


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """Return the exit status: 0, 1, 69 or 77.

    0: something passed and nothing failed; 1: a FAIL; 69: no FAIL, but an ERROR or MISS, or
    nothing ran or counts; 77: everything was skipped.
    """
    seen = set(verdicts)
    if Verdict.FAIL in seen:
        return 1
    if not seen or seen & {Verdict.ERROR, Verdict.MISS}:
        return 69
    return 77 if seen == {Verdict.SKIP} else 0
