# SPDX-License-Identifier: Apache-2.0
"""Compare the host's two discard policies, MADV_DONTNEED and MADV_FREE, by what runs cost."""

from rich.table import Table
from rich.text import Text

from harness.report.screen import new_table
from harness.report.summary import RunSummary, Summary
from harness.safe_text import safe_line
from harness.units import format_size

POLICIES = {"dontneed": "MADV_DONTNEED", "free": "MADV_FREE"}


def policy_table(summary: Summary) -> Table | None:
    """Make a table with a row for each run with measures; None unless both policies were run."""
    runs = [run for run in summary.runs if run.discard in POLICIES and run.measures]
    if {run.discard for run in runs} != set(POLICIES):
        return None
    table = new_table()
    table.add_column("policy")
    table.add_column("scenario")
    for name in ("settle", "pressed out", "fill/page", "refill/page", "huge pages"):
        table.add_column(name, justify="right")
    for run in sorted(runs, key=lambda run: list(POLICIES).index(run.discard or "")):
        table.add_row(*_cells(run))
    return table


def _cells(run: RunSummary) -> list[Text]:
    values = run.measures
    pressed, huge = values.get("pressed_bytes"), values.get("huge_bytes")
    settle = values.get("settle_seconds")
    return [
        Text(POLICIES[run.discard or ""]),
        Text(safe_line(run.run_id)),
        Text("-" if settle is None else f"{settle:.1f}s"),
        Text("-" if pressed is None else format_size(round(pressed))),
        Text(_microseconds(values.get("first_fill_page_seconds"))),
        Text(_microseconds(values.get("refill_page_seconds"))),
        Text("-" if huge is None else format_size(round(huge))),
    ]


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f}us"
