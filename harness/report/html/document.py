# SPDX-License-Identifier: Apache-2.0
"""Write report.html, one file that refers to no other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.errors import InterruptedRunError, UsageError
from harness.record.events import Broke, PhaseStarted
from harness.record.facts import Verdict
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.results_directory import write_whole
from harness.report.documents import render
from harness.report.html.memory_map import COLUMNS, MEANING
from harness.report.html.run_view import RunView, view_run
from harness.report.html.timeline import HEIGHT, STRIP, WIDTH
from harness.report.matrix import Matrix, build_matrix
from harness.report.summary import MANY_STOPPED, Summary
from harness.units import format_size
from harness.verdict.expressions import format_measure

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class ReportPage:
    """The contents of the page."""

    results: str
    """The directories' names, shown as the page's title."""
    runs: tuple[RunView, ...]
    several: bool
    """Whether the runs are of several directories, which may have runs of the same name."""
    left_out: int
    """Number of further runs: stopped before they began, too many to show."""
    matrix: Matrix | None
    """Scenario x kernel x QEMU; None if all runs used the same kernel and QEMU."""

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """Number of runs with each verdict that occurs."""
        verdicts = [run.summary.verdict for run in self.runs]
        return [(verdict, verdicts.count(verdict)) for verdict in Verdict if verdict in verdicts]


def build_page(directories: Sequence[Path]) -> ReportPage:
    """Read results directories.

    Raises `UsageError` if there is no run in them, and `UsageError`, `RecordError` as `read_runs`.
    """
    recorded = [run for directory in directories for run in read_runs(directory)]
    begun = [run for run in recorded if not _never_began(run)]
    if len(recorded) - len(begun) <= MANY_STOPPED:
        begun = recorded
    runs = tuple(view_run(run) for run in begun)
    if not recorded:
        raise UsageError(
            f"{', '.join(map(str, directories))} holds no run",
            hint="its results.jsonl is empty; was it stopped before the first run began?",
        )
    return ReportPage(
        results=", ".join(str(directory) for directory in directories),
        runs=runs,
        several=len(directories) > 1,
        left_out=len(recorded) - len(begun),
        matrix=build_matrix(Summary(tuple(run.summary for run in runs))),
    )


def _never_began(run: RecordedRun) -> bool:
    """Whether it was stopped while it waited for its turn."""
    stopped = any(
        isinstance(event, Broke) and event.error == InterruptedRunError.__name__
        for event in run.events
    )
    return stopped and not any(isinstance(event, PhaseStarted) for event in run.events)


def write_report(directories: Sequence[Path], path: Path) -> None:
    """Write the page of results directories. Raises `UsageError`, `RecordError`."""
    text = render(
        "report.html.j2",
        page=build_page(directories),
        version=__version__,
        meaning=MEANING,
        columns=COLUMNS,
        format_measure=format_measure,
        format_size=format_size,
        plot={"width": WIDTH, "height": HEIGHT, "strip": STRIP},
    )
    write_whole(path, text.encode())
