# SPDX-License-Identifier: Apache-2.0
"""The end of an invocation on a terminal: one table, and below it what to do about the rest."""

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
from harness.report.summary import RunSummary, Summary
from harness.safe_text import safe_line, safe_text
from harness.units import format_size
from harness.verdict.expressions import format_measure

__all__ = ["ProgressView", "print_table"]

_WHERE_TO_LOOK = {
    Cause.FEATURE_OFF: "`guest-ready` in results.jsonl says what device and driver negotiated, "
    "console.log what the guest's kernel printed",
    Cause.NOT_REPORTED: "`audited` in results.jsonl has what stayed in each zone, audits/ the "
    "state of every page",
    Cause.ACKED_NOT_DISCARDED: "discards.log has what QEMU discarded, qemu.log its own words",
    Cause.STILL_CHARGED: "discards.log has what QEMU discarded, `audited` in results.jsonl what "
    "the host still held, and as what",
    Cause.LAZILY_FREE: "the `sample` lines of results.jsonl have the lazily free bytes over time",
    Cause.DATA_LOSS: "`churn-verified` and `audited` in results.jsonl say what was lost, audits/ "
    "has the state of every page",
    Cause.GUEST_RETAINED: "`audited` in results.jsonl has what the guest kept, by zone and by "
    "order, audits/ the state of every page",
    Cause.NOT_SETTLED: "the `sample` lines of results.jsonl show what was still moving. Try "
    "a longer deadline",
    Cause.GUEST_CRASH: "console.log has the crash",
    Cause.GUEST_HANG: "console.log has the guest's last output; if a step made no progress, "
    "autopsy.txt has the guest's registers and what was blocked",
    Cause.KERNEL_WARNING: "console.log has the warning",
    Cause.OVERHEAD: "`judged` in results.jsonl has every figure of the run",
    Cause.CONTROL_BROKEN: "discards.log has what QEMU discarded, the `sample` lines of "
    "results.jsonl what the host held meanwhile",
}

_INDENT = "  "

_GRAVEST_LAST = (Verdict.SKIP, Verdict.MISS, Verdict.ERROR, Verdict.FAIL)
"""What is explained, in this order: the end of the output is what a person sees first."""


def print_table(summary: Summary, results: Path, file: TextSink | None = None) -> None:
    """Print every run's verdict and figures, then the reason and next step of all but passes."""
    console = make_console(file)
    accels = {run.accel for run in summary.runs if run.accel}
    several = {
        "QEMU": len({run.qemu_name for run in summary.runs}) > 1,
        "accel": len(accels) > 1,
    }
    table = new_table()
    for name in ("scenario", "kernel", *(name for name in several if several[name]), "verdict"):
        table.add_column(name)
    for name in ("freed", "reclaimed", "settle"):
        table.add_column(name, justify="right")
    for run in summary.runs:
        table.add_row(*_cells(run, several))
    print_whole(console, table)
    matrix = build_matrix(summary)
    for title, beside in (
        ("how the host gave memory back", policy_table(summary)),
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
        *([Text(run.accel or "-")] if several["accel"] else []),
        Text(_verdict(run), style=STYLES[run.verdict]),
        Text("-" if freed is None else format_size(round(freed))),
        Text(came_back if fraction is None else f"{came_back} {fraction:.0%}"),
        Text("-" if settle is None else f"{settle:.1f}s"),
    ]


def _explain(console: Console, summary: Summary, results: Path) -> None:
    """What became of all but passes and measurements; runs of which the same is said together."""
    stopped = [run for run in summary.runs if run.interrupted and run.verdict is Verdict.MISS]
    if stopped:
        console.print()
        what = f"{len(stopped)} run{'s'[: len(stopped) != 1]}: stopped on request"
        console.print(Text.assemble(_styled(stopped[0]), " ", what))
    alike: dict[tuple[str, ...], list[RunSummary]] = {}
    for run in summary.runs:
        if run not in stopped and run.verdict in _GRAVEST_LAST:
            alike.setdefault((_verdict(run), *_explanation(run)), []).append(run)
    for runs in sorted(alike.values(), key=lambda runs: _GRAVEST_LAST.index(runs[0].verdict)):
        _tell_alike(console, runs, results)


def _explanation(run: RunSummary) -> list[str]:
    """Its reason, what else failed, and the next step, a line each."""
    lines = [run.reason]
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
    """What a measurement took."""
    if run.answer:
        console.print()
        console.print(Text.assemble(_styled(run), " ", safe_line(run.run_id)), soft_wrap=True)
        table = new_table(headed=False)
        for name, value in run.answer.items():
            table.add_row(f"{_INDENT}{safe_line(name)}", format_measure(name, value))
        print_whole(console, table)


def _verdict(run: RunSummary) -> str:
    return f"{run.verdict} {run.cause}" if run.cause else str(run.verdict)


def _styled(run: RunSummary) -> tuple[str, str]:
    return _verdict(run), STYLES[run.verdict]


def _count(summary: Summary) -> str:
    verdicts = [run.verdict for run in summary.runs]
    found = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    return ", ".join(found) or "nothing ran"
