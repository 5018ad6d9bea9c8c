# SPDX-License-Identifier: Apache-2.0
"""Hand the runs of an invocation to the history that `fpr-harness trend` reads."""

import platform
from pathlib import Path

from harness.record.facts import Verdict
from harness.record.run_history import HISTORY_NAME, PastRun, append_runs
from harness.report.summary import RunSummary, Summary, plain_number

SAY_NOTHING = (Verdict.ERROR, Verdict.MISS, Verdict.SKIP)
"""Verdicts of runs that were not measured to their end."""


def history_for(results: Path, *, explicit: Path | None, asked: Path | None) -> Path | None:
    """Choose the history: that `asked` for, else that beside the results directory.

    None where the directory was given by name (`explicit`), as it may be anywhere.
    """
    if asked is not None:
        return asked
    return results.parent / HISTORY_NAME if explicit is None else None


def remember(summary: Summary, history: Path) -> None:
    """Append the runs that were measured to their end. Raises `RecordError`."""
    runs = [_past(run) for run in summary.runs if run.verdict not in SAY_NOTHING]
    if runs:
        append_runs(history, runs)


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
