# SPDX-License-Identifier: Apache-2.0
"""Reads the runs of a results directory, completely or not at all."""

from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.file_kind import why_not
from harness.record.event_lines import run_of_torn
from harness.record.events import Event, Judged, RunStarted, StepsDone
from harness.record.reader import RESULTS_NAME, read_numbered


@dataclass(frozen=True)
class Gap:
    """A place in the record where an event of the run may be lost."""

    line: int
    index: int
    """Number of the run's events before it."""
    what: str = "is torn"
    """What is wrong with the line."""


@dataclass(frozen=True)
class RecordedRun:
    """The last attempt at one run."""

    run_id: str
    started: RunStarted
    events: tuple[Event, ...]
    """The events its verdict was made from, in order; without a verdict, all events."""
    judged: Judged | None
    """The recorded verdict; None if the record ends without one."""
    gap: Gap | None
    directory: Path
    """The directory of its files."""


@dataclass
class _Reading:
    """A run while its lines are read."""

    started: RunStarted
    events: list[Event] = field(default_factory=list)
    judged: Judged | None = None
    judged_at: int | None = None
    """Number of events the verdict was made from; later events do not count."""
    gap: Gap | None = None
    """A gap between two events of the run."""
    open_gap: Gap | None = None
    """A gap after the last event so far; harmless if no event follows."""


def read_runs(results: Path) -> list[RecordedRun]:
    """Read every run of a results directory, in the order they began.

    Raises `UsageError` if it is not a results directory, and `RecordError` if the record cannot be
    read or this version does not understand it.
    """
    path = results / RESULTS_NAME
    if not results.is_dir():
        raise UsageError(
            f"{results}: {why_not(results, 'a directory', 'there is no such directory')}",
            hint="name a results directory, such as results/latest",
        )
    if not path.exists():
        hint = f"name a directory that holds a {RESULTS_NAME}"
        if (results.absolute().parent / RESULTS_NAME).exists():
            hint = f"it is the directory of a single run: name {results.parent} instead"
        raise UsageError(f"{results} has no {RESULTS_NAME}", hint=hint)
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
            raise RecordError(
                f"{path}:{number}: {run_id!r} is not a valid run name", evidence=[path]
            )
        readings[run_id] = _Reading(event, [event])
        return
    reading = readings.get(run_id)
    if reading is None:
        raise RecordError(
            f"{path}:{number}: an event of the run {run_id!r}, which has no run-started event",
            hint="the beginning of the file is missing; judge the complete file",
            evidence=[path],
        )
    reading.gap = reading.gap or reading.open_gap or _miscounted(reading, number, event)
    if isinstance(event, Judged):
        reading.judged, reading.judged_at = event, len(reading.events)
    else:
        reading.events.append(event)


def _miscounted(reading: _Reading, number: int, event: Event) -> Gap | None:
    """Find lines that were removed or added, by the count in the run's last event."""
    there = len(reading.events)
    if not isinstance(event, StepsDone) or event.events in (None, there):
        return None
    return Gap(number, there, f"counts {event.events} events before it, but there are {there}")


def _tear(readings: dict[str, _Reading], number: int, run_id: str | None) -> None:
    """Note a torn line: for the run it names, otherwise for every run that continues after it."""
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
