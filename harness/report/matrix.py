# SPDX-License-Identifier: Apache-2.0
"""Scenario x kernel x QEMU: what became of each scenario on every image and QEMU."""

import itertools
import re
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from harness.record.facts import Verdict
from harness.report.screen import STYLES, new_table, short_release
from harness.report.summary import RunSummary, Summary
from harness.safe_text import safe_line

_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.MISS, Verdict.SKIP, Verdict.DONE, Verdict.PASS)


def oldest_first(versions: Mapping[str, str]) -> list[str]:
    """Images or QEMUs by their versions, as of the kernel."""

    def key(name: str) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", versions[name])], name

    return sorted(versions, key=key)


def matrix_table(summary: Summary) -> Table | None:
    """A row a scenario and a column an image and QEMU; None where all ran on one of each."""
    kernels = {run.image: "" for run in summary.runs}
    kernels |= {run.image: run.kernel for run in summary.runs if run.kernel}
    qemus = {run.qemu_name: "" for run in summary.runs}
    qemus |= {run.qemu_name: run.qemu for run in summary.runs if run.qemu}
    columns = list(itertools.product(oldest_first(kernels), oldest_first(qemus)))
    if len(columns) < 2:
        return None
    table = new_table()
    table.add_column("scenario")
    for image, qemu in columns:
        lines = [image, short_release(kernels[image]) or "-"] if len(kernels) > 1 else []
        lines += [f"QEMU {qemu}", qemus[qemu] or "-"] if len(qemus) > 1 else []
        table.add_column("\n".join(map(safe_line, lines)))
    for scenario in dict.fromkeys(run.scenario for run in summary.runs):
        runs = [run for run in summary.runs if run.scenario == scenario]
        cells = [_cell([r for r in runs if (r.image, r.qemu_name) == column]) for column in columns]
        table.add_row(Text(safe_line(scenario)), *cells)
    return table


def matrix_title(summary: Summary) -> str:
    """What the table's columns differ in."""
    several = {
        "kernel": len({run.image for run in summary.runs}) > 1,
        "QEMU": len({run.qemu_name for run in summary.runs}) > 1,
    }
    return " x ".join(["scenario", *(name for name, many in several.items() if many)])


def _cell(runs: list[RunSummary]) -> Text:
    """The worst of the repetitions, and how many it was of them."""
    if not runs:
        return Text("-")
    worst = min((run.verdict for run in runs), key=_WORST.index)
    count = sum(run.verdict is worst for run in runs)
    share = f" {count}/{len(runs)}" if len(runs) > 1 else ""
    return Text(f"{worst}{share}", style=STYLES[worst])
