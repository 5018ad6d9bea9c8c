# SPDX-License-Identifier: Apache-2.0
"""Collect the recorded runs of results directories for the machine formats of `export`."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.record.events import ConsoleFinding, GuestReady
from harness.record.reader import RESULTS_NAME
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.told_findings import told_findings
from harness.report.expected import Expected, audit_expectations, run_expectations
from harness.report.summary import RunSummary, build_summary


@dataclass(frozen=True)
class ExportedRun:
    """One recorded run, as the machine formats need it."""

    name: str
    """Its run ID, after the name of its directory if there are several."""
    summary: RunSummary
    results: Path
    """The results directory."""
    began: datetime.datetime
    build: str
    """`uname -v` of the guest's kernel; empty if no guest answered."""
    commit: str
    """`git describe` of the tree that the kernel was built in; empty: no such tree."""
    expected: tuple[Expected, ...]
    findings: tuple[ConsoleFinding, ...]

    @property
    def facts(self) -> dict[str, str]:
        """What the run ran on, as far as is known: kernel, accel, qemu, image."""
        known = self.summary
        facts = {"kernel": known.kernel, "accel": known.accel, "qemu": known.qemu}
        return {name: value for name, value in facts.items() if value} | {"image": known.image}


def collect(directories: Sequence[Path]) -> list[ExportedRun]:
    """Read every run of results directories.

    Raises `UsageError` if there is none or it is no results directory, and `RecordError` if a
    record cannot be read.
    """
    several = len(directories) > 1
    runs = [
        _exported(run, f"{directory.resolve().name}/{run.run_id}" if several else run.run_id)
        for directory in directories
        for run in read_runs(directory)
    ]
    if not runs:
        raise UsageError(
            f"{', '.join(map(str, directories))} holds no run",
            hint=f"its {RESULTS_NAME} is empty; was it stopped before the first run began?",
        )
    return runs


def _exported(run: RecordedRun, name: str) -> ExportedRun:
    events = (*run.events, run.judged) if run.judged is not None else run.events
    [summary] = build_summary([(run.run_id, event) for event in events]).runs
    ready = next((event for event in events if isinstance(event, GuestReady)), None)
    plan = run.started.plan
    try:
        began = datetime.datetime.fromisoformat(run.started.wall).astimezone(datetime.UTC)
        expected = (*run_expectations(run, summary), *audit_expectations(run, summary))
    except (ValueError, OverflowError) as error:
        raise RecordError(
            f"{run.directory.parent / RESULTS_NAME}: run {run.run_id}: {error}",
            hint="the file was edited, or written by another version",
        ) from error
    return ExportedRun(
        name,
        summary,
        run.directory.parent,
        began,
        build=ready.build if ready is not None else "",
        commit=(plan.kernel_commit or "") if plan is not None else "",
        expected=expected,
        findings=told_findings(events),
    )
