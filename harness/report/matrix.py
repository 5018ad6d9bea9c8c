# SPDX-License-Identifier: Apache-2.0
"""The matrix scenario x kernel x QEMU: the verdict of each scenario on every image and QEMU."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from harness.record.facts import Verdict
from harness.report.screen import STYLES, new_table, short_release
from harness.report.summary import RunSummary, Summary
from harness.safe_text import safe_line

_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.MISS, Verdict.SKIP, Verdict.DONE, Verdict.PASS)


def oldest_first(versions: Mapping[str, str]) -> list[str]:
    """Sort the names of images or QEMUs by their kernel's or own version."""

    def key(name: str) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", versions[name])], name

    return sorted(versions, key=key)


@dataclass(frozen=True)
class MatrixCell:
    """The runs of one scenario on one image and QEMU."""

    verdict: Verdict | None
    """The worst verdict of the runs; None if there were none."""
    count: int = 0
    """Number of runs with that verdict."""
    runs: int = 0
    worst: tuple[RunSummary, ...] = ()
    """The runs with that verdict."""

    @property
    def text(self) -> str:
        if self.verdict is None:
            return "-"
        return f"{self.verdict} {self.count}/{self.runs}" if self.runs > 1 else str(self.verdict)


@dataclass(frozen=True)
class Matrix:
    """A row for each scenario and a column for each image and QEMU."""

    title: str
    """Names the dimensions of the table."""
    columns: tuple[str, ...]
    """Lines with the image, its kernel, the QEMU and its version, if they differ."""
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]


def build_matrix(summary: Summary) -> Matrix | None:
    """Compute the matrix; None if all runs used the same image and QEMU."""
    kernels = {run.image: "" for run in summary.runs}
    kernels |= {run.image: run.kernel for run in summary.runs if run.kernel}
    qemus = {run.qemu_name: "" for run in summary.runs}
    qemus |= {run.qemu_name: run.qemu for run in summary.runs if run.qemu}
    columns = list(itertools.product(oldest_first(kernels), oldest_first(qemus)))
    if len(columns) < 2:
        return None
    heads = []
    for image, qemu in columns:
        lines = [image, short_release(kernels[image]) or "-"] if len(kernels) > 1 else []
        lines += [f"QEMU {qemu}", qemus[qemu] or "-"] if len(qemus) > 1 else []
        heads.append("\n".join(map(safe_line, lines)))
    rows = []
    for scenario in dict.fromkeys(run.scenario for run in summary.runs):
        runs = [run for run in summary.runs if run.scenario == scenario]
        cells = [_cell([r for r in runs if (r.image, r.qemu_name) == column]) for column in columns]
        rows.append((scenario, tuple(cells)))
    several = {"kernel": len(kernels) > 1, "QEMU": len(qemus) > 1}
    title = " x ".join(["scenario", *(name for name, many in several.items() if many)])
    return Matrix(title, tuple(heads), tuple(rows))


def matrix_table(matrix: Matrix) -> Table:
    """The matrix for a terminal."""
    table = new_table()
    table.add_column("scenario")
    for head in matrix.columns:
        table.add_column(head)
    for scenario, cells in matrix.rows:
        table.add_row(
            Text(safe_line(scenario)),
            *(
                Text(cell.text, style=STYLES[cell.verdict] if cell.verdict else "")
                for cell in cells
            ),
        )
    return table


def _cell(runs: list[RunSummary]) -> MatrixCell:
    """Return the worst verdict of the repetitions, and how many had it."""
    if not runs:
        return MatrixCell(None)
    worst = min((run.verdict for run in runs), key=_WORST.index)
    those = tuple(run for run in runs if run.verdict is worst)
    return MatrixCell(worst, len(those), len(runs), those)
