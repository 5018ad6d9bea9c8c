# SPDX-License-Identifier: Apache-2.0
"""Hand the runs of an invocation to the history that `fpr-harness trend` reads."""

import platform
from pathlib import Path

from harness.record.facts import Verdict
from harness.record.run_history import HISTORY_NAME, PastRun, append_runs
from harness.report.summary import RunSummary, Summary, plain_number

SAY_NOTHING = (Verdict.ERROR, Verdict.MISS, Verdict.SKIP)
"""Verdicts of runs that were not measured to their end."""


def remember(summary: Summary, results: Path, *, explicit: Path | None, asked: Path | None) -> None:
    """Append the runs to the history `asked` for, else to that beside the results directory.

    A directory given by name (`explicit`) has no history beside it, as it may be anywhere. Raises
    `RecordError`.
    """
    path = asked
    if path is None and explicit is None:
        path = results.parent / HISTORY_NAME
    runs = [run for run in summary.runs if run.verdict not in SAY_NOTHING]
    if path is not None and runs:
        append_runs(path, map(_past, runs))


def _past(run: RunSummary) -> PastRun:
    return PastRun(
        began=run.wall,
        scenario=run.scenario,
        image=run.image,
        kernel=run.kernel or "",
        accel=run.accel or "",
        qemu=run.qemu or "",
        qemu_name=run.qemu_name or "host",
        host=platform.node(),
        verdict=run.verdict,
        cause=run.cause,
        seconds=round(run.seconds, 3),
        measures={name: plain_number(name, value) for name, value in run.measures.items()},
    )
