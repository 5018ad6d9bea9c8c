# SPDX-License-Identifier: Apache-2.0
"""The end of an invocation on a terminal: one table, and below it what to do about the rest."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.ledger.expect import format_measure
from harness.ledger.facts import Cause, Verdict
from harness.report.matrix import matrix_table
from harness.report.policies import policy_table
from harness.report.progress import ProgressView
from harness.report.screen import STYLES, TextSink, make_console, printable
from harness.report.summary import RunSummary, Summary
from harness.units import format_size

__all__ = ["ProgressView", "print_table"]

_WHERE_TO_LOOK = {
    Cause.FEATURE_OFF: "console.log and qmp.log say what device and driver agreed on",
    Cause.NOT_REPORTED: "audits/ has the pages, console.log what the guest's kernel said",
    Cause.ACKED_NOT_DISCARDED: "discards.log has what QEMU discarded, qemu.log its own words",
    Cause.STILL_CHARGED: "discards.log has what QEMU discarded, samples/ what the host still held",
    Cause.LAZILY_FREE: "samples/ has the lazily freed bytes over time",
    Cause.DATA_LOSS: "results.jsonl has the first wrong words, audits/ the pages",
    Cause.GUEST_RETAINED: "audits/ has the pages, by zone and order",
    Cause.NOT_SETTLED: "samples/ shows what still moved; a longer deadline may settle it",
    Cause.GUEST_CRASH: "console.log has the crash",
    Cause.GUEST_HANG: "autopsy.txt has the guest's registers, console.log its last words",
    Cause.KERNEL_WARNING: "console.log has the warning",
    Cause.OVERHEAD: "samples/ has the course of it",
    Cause.CONTROL_BROKEN: "discards.log and samples/ show by which way memory came back",
}


def print_table(summary: Summary, results: Path, file: TextSink | None = None) -> None:
    """Print every run's verdict and figures, then the reason and next step of all but passes."""
    console = make_console(file)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("scenario", overflow="fold")
    table.add_column("kernel", overflow="fold")
    table.add_column("accel")
    table.add_column("verdict", overflow="fold", min_width=7)
    for name in ("freed", "reclaimed", "settle"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in summary.runs:
        table.add_row(*_cells(run))
    console.print(table)
    for title, beside in (
        ("how the host gave memory back", policy_table(summary)),
        ("scenario x kernel", matrix_table(summary)),
    ):
        if beside is not None:
            console.print(f"\n{title}", style="bold")
            console.print(beside)
    for run in summary.runs:
        if run.verdict is Verdict.DONE:
            _tell_measured(console, run)
    for run in summary.runs:
        if run.verdict not in (Verdict.PASS, Verdict.DONE):
            _explain(console, run, results)
    count = Text(f"\n{_count(summary)}; evidence in {results}/<scenario>/")
    console.print(count, soft_wrap=True)


def _cells(run: RunSummary) -> list[Text]:
    measures = run.measures
    freed = measures.get("freed_bytes")
    reclaimed = measures.get("reclaimed_bytes")
    fraction = measures.get("reclaimed_fraction")
    settle = measures.get("settle_seconds")
    came_back = "-" if reclaimed is None else format_size(round(reclaimed))
    return [
        Text(printable(run.run_id)),
        Text(printable(run.kernel or "-")),
        Text(run.accel or "-"),
        Text(_verdict(run), style=STYLES[run.verdict]),
        Text("-" if freed is None else format_size(round(freed))),
        Text(came_back if fraction is None else f"{came_back} {fraction:.0%}"),
        Text("-" if settle is None else f"{settle:.1f}s"),
    ]


def _verdict(run: RunSummary) -> str:
    return f"{run.verdict} {run.cause}" if run.cause else str(run.verdict)


def _explain(console: Console, run: RunSummary, results: Path) -> None:
    directory = results / run.run_id
    console.print()
    console.print(Text.assemble((_verdict(run), STYLES[run.verdict]), " ", run.run_id))
    lines = [run.reason]
    next_step = run.hint
    if run.cause is not None:
        next_step = f"{_WHERE_TO_LOOK[run.cause]}; repro.sh boots the same guest by hand"
    if next_step and next_step not in run.reason:
        lines.append(f"what to do: {next_step}")
    console.print(Padding(Text(printable("\n".join(lines))), (0, 0, 0, 2), expand=False))
    if directory.exists():
        console.print(Text(f"  evidence: {directory}/"), soft_wrap=True)


def _tell_measured(console: Console, run: RunSummary) -> None:
    """What a measurement took."""
    if run.answer:
        console.print()
        console.print(Text.assemble((str(run.verdict), STYLES[run.verdict]), " ", run.run_id))
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for name, value in run.answer.items():
            table.add_row(f"  {printable(name)}", format_measure(name, value))
        console.print(table)


def _count(summary: Summary) -> str:
    verdicts = [run.verdict for run in summary.runs]
    found = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    return ", ".join(found) or "nothing ran"
