# SPDX-License-Identifier: Apache-2.0
"""Print the results of an invocation: a table, and below it what to do about runs not passed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.record.facts import Cause, Verdict
from harness.report.matrix import build_matrix, matrix_table
from harness.report.policies import policy_table
from harness.report.progress import ProgressView
from harness.report.screen import (
    STYLES,
    TextSink,
    make_console,
    new_table,
    print_whole,
    short_release,
)
from harness.report.summary import MANY_STOPPED, RunSummary, Summary
from harness.safe_text import safe_line, safe_text
from harness.units import format_size
from harness.verdict.expressions import format_measure

__all__ = ["ProgressView", "print_table"]

_WHERE_TO_LOOK = {
    Cause.FEATURE_OFF: "see `guest-ready` in results.jsonl for what device and driver negotiated, "
    "and console.log for the guest's kernel messages",
    Cause.NOT_REPORTED: "see `audited` in results.jsonl for what stayed in each zone, and audits/ "
    "for the state of every page",
    Cause.ACKED_NOT_DISCARDED: "see discards.log for what QEMU discarded, and qemu.log for errors",
    Cause.STILL_CHARGED: "see discards.log for what QEMU discarded, and `audited` in "
    "results.jsonl for what the host still held",
    Cause.LAZILY_FREE: "see the `sample` lines of results.jsonl for the lazily free bytes over "
    "time",
    Cause.DATA_LOSS: "see `churn-verified` and `audited` in results.jsonl for what was lost, and "
    "audits/ for the state of every page",
    Cause.GUEST_RETAINED: "see `audited` in results.jsonl for what the guest kept, by zone and "
    "order, and audits/ for the state of every page",
    Cause.NOT_SETTLED: "see the `sample` lines of results.jsonl for what was still moving, or try "
    "a longer deadline",
    Cause.GUEST_CRASH: "see the crash in console.log",
    Cause.GUEST_HANG: "see the guest's last output in console.log; if a step made no progress, "
    "autopsy.txt has the guest's registers and blocked tasks",
    Cause.KERNEL_WARNING: "see the warning in console.log, or in kernel.log if the console "
    "does not show it",
    Cause.OVERHEAD: "see `judged` in results.jsonl for all measures of the run",
    Cause.CONTROL_BROKEN: "see discards.log for what QEMU discarded, and the `sample` lines of "
    "results.jsonl for what the host held meanwhile",
}

MUCH_MORE = 1.05
"""Part of what was freed: a few percent more come back of what else the guest freed by itself."""

_MORE_THAN_FREED = (
    ">100%: the guest also gave back what was free before the latest free and not yet reported"
)

_INDENT = "  "

_GRAVEST_LAST = (Verdict.SKIP, Verdict.MISS, Verdict.ERROR, Verdict.FAIL)
"""Verdicts that are explained, the gravest last, at the end of the output."""


def print_table(summary: Summary, results: Path, file: TextSink | None = None) -> None:
    """Print verdict and measures of every run, then reason and next step of those not passed."""
    console = make_console(file)
    accels = {_under(run) for run in summary.runs if run.accel}
    several = {
        "QEMU": len({run.qemu_name for run in summary.runs}) > 1,
        "accel": len(accels) > 1,
    }
    table = new_table()
    for name in ("scenario", "kernel", *(name for name in several if several[name]), "verdict"):
        table.add_column(name)
    for name in ("freed", "reclaimed", "settle"):
        table.add_column(name, justify="right")
    early = sum(run.stopped_early for run in summary.runs)
    for run in summary.runs:
        if early <= MANY_STOPPED or not run.stopped_early:
            table.add_row(*_cells(run, several))
    print_whole(console, table)
    if any(run.measures.get("reclaimed_fraction", 0) > MUCH_MORE for run in summary.runs):
        console.print(_MORE_THAN_FREED, style="dim")
    matrix = build_matrix(summary)
    for title, beside in (
        ("the host's discard policies compared", policy_table(summary)),
        (matrix.title if matrix else "", matrix_table(matrix) if matrix else None),
    ):
        if beside is not None:
            console.print(f"\n{title}", style="bold")
            print_whole(console, beside)
    for run in summary.runs:
        if run.verdict is Verdict.DONE:
            _tell_measured(console, run)
    _explain(console, summary, results)
    under = f" under {accels.pop()}" if len(accels) == 1 else ""
    count = Text(f"\n{_count(summary)}{under}; evidence in {safe_line(str(results))}/<scenario>/")
    console.print(count, soft_wrap=True)


def _cells(run: RunSummary, several: Mapping[str, bool]) -> list[Text]:
    measures = run.measures
    freed = measures.get("freed_bytes")
    reclaimed = measures.get("reclaimed_bytes")
    fraction = measures.get("reclaimed_fraction")
    settle = measures.get("settle_seconds")
    came_back = "-" if reclaimed is None else format_size(round(reclaimed))
    return [
        Text(safe_line(run.run_id)),
        Text(safe_line(short_release(run.kernel or "-"))),
        *([Text(safe_line(run.qemu or "-"))] if several["QEMU"] else []),
        *([Text(_under(run))] if several["accel"] else []),
        Text(run.outcome + _remarks(run), style=STYLES[run.verdict]),
        Text("-" if freed is None else format_size(round(freed))),
        Text(came_back if fraction is None else f"{came_back} {_share(fraction)}"),
        Text("-" if settle is None else f"{settle:.1f}s"),
    ]


def _remarks(run: RunSummary) -> str:
    """Why it took another attempt is in the reason of the verdict, in summary.json."""
    known = ", in quarantine" if run.quarantine is not None else ""
    return known + (f", attempt {run.attempt}" if run.attempt > 1 else "")


def _under(run: RunSummary) -> str:
    """What its guest ran under: the accelerator, and the clock if it is not the host's."""
    return f"{run.accel or '-'}{', virtual clock' if run.clock == 'virtual' else ''}"


def _share(fraction: float) -> str:
    """Of what was freed; more than that is no share of it."""
    return ">100%" if round(fraction, 2) > 1 else f"{fraction:.0%}"


def _explain(console: Console, summary: Summary, results: Path) -> None:
    """Explain all runs except passes and measurements; runs with the same explanation together."""
    stopped = [run for run in summary.runs if run.interrupted and run.verdict is Verdict.MISS]
    if stopped:
        console.print()
        what = f"{len(stopped)} run{'s'[: len(stopped) != 1]}: stopped on request"
        early = sum(run.stopped_early for run in stopped)
        if early > MANY_STOPPED:
            what += f", {early} of them before their guests were ready and not in the table"
        console.print(Text.assemble(_styled(stopped[0]), " ", what))
    alike: dict[tuple[str, ...], list[RunSummary]] = {}
    told = {run.run_id for run in stopped}
    for run in summary.runs:
        if run.run_id not in told and run.verdict in _GRAVEST_LAST:
            alike.setdefault((run.outcome, *_explanation(run)), []).append(run)
    for runs in sorted(alike.values(), key=lambda runs: _GRAVEST_LAST.index(runs[0].verdict)):
        _tell_alike(console, runs, results)


def _explanation(run: RunSummary) -> list[str]:
    """Return its reason, what else failed, and the next step, one line each."""
    lines = [run.reason]
    if run.quarantine is not None:
        lines.append(f"{run.quarantine}: the exit status leaves it out")
    lines += [f"failed: {sentence}" for sentence in run.failed if sentence not in run.reason]
    next_step = run.hint
    if run.cause is not None:
        next_step = f"{_WHERE_TO_LOOK[run.cause]}; repro.sh boots the same guest by hand"
    if next_step and next_step not in run.reason:
        lines.append(f"what to do: {next_step}")
    return lines


def _tell_alike(console: Console, runs: Sequence[RunSummary], results: Path) -> None:
    names = safe_line(", ".join(run.run_id for run in runs))
    console.print()
    console.print(Text.assemble(_styled(runs[0]), " ", names), soft_wrap=True)
    told = Text(safe_text("\n".join(_explanation(runs[0]))))
    for line in told.wrap(console, console.width - len(_INDENT)):
        line.rstrip()
        console.print(Text(_INDENT).append(line), soft_wrap=True)
    kept = [path for run in runs if (path := results / run.run_id).exists()]
    if kept:
        more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
        console.print(Text(f"{_INDENT}evidence: {safe_line(str(kept[0]))}/{more}"), soft_wrap=True)


def _tell_measured(console: Console, run: RunSummary) -> None:
    """Print the answers of a measurement."""
    if run.answer:
        console.print()
        console.print(Text.assemble(_styled(run), " ", safe_line(run.run_id)), soft_wrap=True)
        table = new_table(headed=False)
        for name, value in run.answer.items():
            table.add_row(f"{_INDENT}{safe_line(name)}", format_measure(name, value))
        print_whole(console, table)


def _styled(run: RunSummary) -> tuple[str, str]:
    return run.outcome, STYLES[run.verdict]


def _count(summary: Summary) -> str:
    known = [run.verdict for run in summary.runs if run.quarantine is not None]
    counted = _counted([run.verdict for run in summary.runs if run.quarantine is None])
    beside = f", and in quarantine {_counted(known)}" if known else ""
    return (counted or ("nothing counts" if known else "nothing ran")) + beside


def _counted(verdicts: Sequence[Verdict]) -> str:
    found = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    return ", ".join(found)
