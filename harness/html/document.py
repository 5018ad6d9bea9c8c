# SPDX-License-Identifier: Apache-2.0
"""Write report.html, one file that refers to no other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.errors import InterruptedRunError, RecordError, UsageError
from harness.html.curve_size import HEIGHT as PAST_HEIGHT
from harness.html.curve_size import WIDTH as PAST_WIDTH
from harness.html.heat import HeatTable, heat_table
from harness.html.memory_map import MEANING
from harness.html.rendering import render_page
from harness.html.run_view import RunView, view_run
from harness.html.timeline import HEIGHT, STRIP, WIDTH
from harness.record.events import Broke, PhaseStarted
from harness.record.facts import Verdict
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.results_directory import write_whole
from harness.record.run_history import read_history
from harness.record.sides import side_of
from harness.report.summary import MANY_STOPPED, RunSummary
from harness.units import format_size
from harness.verdict.expressions import format_measure

if TYPE_CHECKING:
    from harness.html.distributions import Distributions
    from harness.html.past_view import PastCurve

REPORT_NAME = "report.html"


FEW_RUNS = 3
"""So many runs are shown in full; of more, only those that did not pass."""


@dataclass(frozen=True)
class ReportPage:
    """The contents of the page."""

    results: str
    """The directories' names, shown as the page's title."""
    runs: tuple[RunView, ...]
    """Those that did not pass come first."""
    several: bool
    """Whether the runs are of several directories, which may have runs of the same name."""
    left_out: int
    """Number of further runs: stopped before they began, too many to show."""
    heat: HeatTable | None
    """Scenario x kernel x QEMU; None if all runs used the same kernel and QEMU."""
    comparisons: tuple["Distributions", ...]
    """Of the directories that hold runs of two sides."""
    past: tuple["PastCurve", ...]
    no_past: str
    """Why there are no trends although there is a history; empty otherwise."""

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """Number of runs with each verdict that occurs."""
        verdicts = [run.summary.verdict for run in self.runs]
        return [(verdict, verdicts.count(verdict)) for verdict in Verdict if verdict in verdicts]

    @property
    def few(self) -> bool:
        """Whether all runs are shown in full, with the trends below them."""
        return len(self.runs) <= FEW_RUNS

    def shows(self, run: RunView) -> bool:
        """Whether the run is open when the page is."""
        return self.few or run.summary.verdict in _ALARMING


_ALARMING = (Verdict.FAIL, Verdict.ERROR, Verdict.MISS)


def build_page(directories: Sequence[Path], history: Path | None = None) -> ReportPage:
    """Read results directories, and the `history` for trends.

    Raises `UsageError` if there is no run in them, and `UsageError`, `RecordError` as `read_runs`.
    """
    recorded = [run for directory in directories for run in read_runs(directory)]
    begun = [run for run in recorded if not _never_began(run)]
    if len(recorded) - len(begun) <= MANY_STOPPED:
        begun = recorded
    viewed = (view_run(run) for run in begun)
    runs = tuple(sorted(viewed, key=lambda run: run.summary.verdict not in _ALARMING))
    if not recorded:
        raise UsageError(
            f"{', '.join(map(str, directories))} holds no run",
            hint="its results.jsonl is empty; was it stopped before the first run began?",
        )
    summaries = [run.summary for run in runs]
    past, no_past = _past(history, summaries)
    return ReportPage(
        results=", ".join(str(directory) for directory in directories),
        runs=runs,
        several=len(directories) > 1,
        left_out=len(recorded) - len(begun),
        heat=heat_table(summaries),
        comparisons=tuple(_comparisons(directories, runs)),
        past=past,
        no_past=no_past,
    )


def _comparisons(directories: Sequence[Path], runs: Sequence[RunView]) -> Iterator["Distributions"]:
    for directory in directories:
        own = [run.summary for run in runs if run.results == str(directory)]
        if {"A", "B"} <= {side_of(run.run_id) for run in own}:
            # Imported only here, because SciPy takes longer than the rest of a page.
            from harness.html.distributions import view_comparison

            drawn = view_comparison(directory, own)
            if drawn is not None:
                yield drawn


def _past(history: Path | None, runs: Sequence[RunSummary]) -> tuple[tuple["PastCurve", ...], str]:
    """Lay out the trends; a history that cannot be read does not keep the page from being made."""
    if history is None or not history.exists():
        return (), ""
    from harness.html.past_view import view_past

    try:
        return view_past(read_history(history), runs), ""
    except RecordError as error:
        return (), error.message


def _never_began(run: RecordedRun) -> bool:
    """Whether it was stopped while it waited for its turn."""
    stopped = any(
        isinstance(event, Broke) and event.error == InterruptedRunError.__name__
        for event in run.events
    )
    return stopped and not any(isinstance(event, PhaseStarted) for event in run.events)


def write_report(directories: Sequence[Path], path: Path, history: Path | None = None) -> None:
    """Write the page of results directories, with the trends of a `history`.

    Raises `UsageError`, `RecordError`.
    """
    text = render_page(
        "report.html.j2",
        page=build_page(directories, history),
        version=__version__,
        meaning=MEANING,
        format_measure=format_measure,
        format_size=format_size,
        plot={"width": WIDTH, "height": HEIGHT, "strip": STRIP},
        past={"width": PAST_WIDTH, "height": PAST_HEIGHT},
    )
    write_whole(path, text.encode())
