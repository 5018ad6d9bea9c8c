# SPDX-License-Identifier: Apache-2.0
"""The heat table of several runs, scenario x kernel x QEMU: each verdict, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.record.facts import Verdict
from harness.report.matrix import Matrix, MatrixCell, build_matrix
from harness.report.summary import RunSummary, Summary


@dataclass(frozen=True)
class HeatCell:
    """The runs of one scenario on one kernel and QEMU."""

    verdict: Verdict | None
    """The worst; None without a run."""
    text: str
    back: float | None
    """Median part of the freed memory that came back in the runs with that verdict, 0 to 1; None
    if it was not measured."""
    run: int | None
    """Number on the page, from 1, of the first run with that verdict."""


@dataclass(frozen=True)
class HeatTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_table(runs: Sequence[RunSummary]) -> HeatTable | None:
    """Lay out the runs in the order of the page; None if all used the same kernel and QEMU."""
    matrix: Matrix | None = build_matrix(Summary(tuple(runs)))
    if matrix is None:
        return None
    numbers = {id(run): number for number, run in enumerate(runs, 1)}
    rows = [
        (scenario, tuple(_cell(cell, numbers) for cell in cells)) for scenario, cells in matrix.rows
    ]
    return HeatTable(matrix.title, matrix.columns, tuple(rows))


def _cell(cell: MatrixCell, numbers: dict[int, int]) -> HeatCell:
    parts = [run.measures.get("reclaimed_fraction") for run in cell.worst]
    known = [part for part in parts if part is not None]
    back = min(1.0, max(0.0, median(known))) if known else None
    run = numbers[id(cell.worst[0])] if cell.worst else None
    return HeatCell(cell.verdict, cell.text, back, run)
