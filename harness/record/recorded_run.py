# SPDX-License-Identifier: Apache-2.0
"""The runs of a results directory, read back whole or refused."""

from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.record.event_lines import run_of_torn
from harness.record.events import Event, Judged, RunStarted, StepsDone
from harness.record.reader import RESULTS_NAME, read_numbered


@dataclass(frozen=True)
class Gap:
    """A place where an event of the run may be lost."""

    line: int
    index: int
    """How many of the run's events stand before it."""
    what: str = "is torn"
    """What is wrong with the line."""


@dataclass(frozen=True)
class RecordedRun:
    """The last attempt at one run."""

    run_id: str
    started: RunStarted
    events: tuple[Event, ...]
    """What its verdict was made from, in order; without a verdict, all there is."""
    judged: Judged | None
    """The verdict as it was recorded; None: the record ends without one."""
    gap: Gap | None
    directory: Path
    """Where its files lie."""


@dataclass
class _Reading:
    """A run while its lines are read."""

    started: RunStarted
    events: list[Event] = field(default_factory=list)
    judged: Judged | None = None
    judged_at: int | None = None
    """How many events the verdict was made from; what comes later does not count."""
    gap: Gap | None = None
    """Between two events of the run."""
    open_gap: Gap | None = None
    """After its last event so far: no loss, if nothing follows."""


def read_runs(results: Path) -> list[RecordedRun]:
    """Every run of a results directory, in the order in which they began.

    Raises `UsageError` for what is no results directory, and `RecordError` where the record cannot
    be read or is not of a kind that this version reads whole.
    """
    path = results / RESULTS_NAME
    if not results.is_dir():
        raise UsageError(
            f"no directory {results}",
            hint="name a results directory, as in results/latest",
        )
    if not path.exists():
        hint = f"a results directory has a {RESULTS_NAME}"
        if (results.absolute().parent / RESULTS_NAME).exists():
            hint = f"it is the directory of a single run: name {results.parent} instead"
        raise UsageError(f"{results} holds no results", hint=hint)
    readings: dict[str, _Reading] = {}
    for number, line, found in read_numbered(path):
        if found is None:
            _tear(readings, number, run_of_torn(line))
        else:
            _take(readings, path, number, *found)
    return [_whole(results, run_id, reading) for run_id, reading in readings.items()]


def _take(
    readings: dict[str, _Reading], path: Path, number: int, run_id: str, event: Event
) -> None:
    if isinstance(event, RunStarted):
        if not run_id or "/" in run_id or run_id[0] == "." or not run_id.isprintable():
            raise RecordError(f"{path}:{number}: no run is called {run_id!r}", evidence=[path])
        readings[run_id] = _Reading(event, [event])
        return
    reading = readings.get(run_id)
    if reading is None:
        raise RecordError(
            f"{path}:{number}: an event of a run that never began: {run_id!r}",
            hint="the beginning of the file is missing",
            evidence=[path],
        )
    reading.gap = reading.gap or reading.open_gap or _miscounted(reading, number, event)
    if isinstance(event, Judged):
        reading.judged, reading.judged_at = event, len(reading.events)
    else:
        reading.events.append(event)


def _miscounted(reading: _Reading, number: int, event: Event) -> Gap | None:
    """Whole lines that somebody took out, or put in: only the run's last event can tell."""
    there = len(reading.events)
    if not isinstance(event, StepsDone) or event.events in (None, there):
        return None
    return Gap(number, there, f"counts {event.events} events before it, and there are {there}")


def _tear(readings: dict[str, _Reading], number: int, run_id: str | None) -> None:
    """A torn line: of the run that it names, else of any that goes on after it."""
    torn = list(readings.values()) if run_id is None else [readings.get(run_id)]
    for reading in torn:
        if reading is not None and reading.open_gap is None:
            reading.open_gap = Gap(number, len(reading.events))


def _whole(results: Path, run_id: str, reading: _Reading) -> RecordedRun:
    return RecordedRun(
        run_id=run_id,
        started=reading.started,
        events=tuple(reading.events[: reading.judged_at]),
        judged=reading.judged,
        gap=reading.gap,
        directory=results / run_id,
    )
