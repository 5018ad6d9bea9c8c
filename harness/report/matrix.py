# SPDX-License-Identifier: Apache-2.0
"""Scenario x kernel: what became of each scenario on every image."""

import re
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from harness.record.facts import Verdict
from harness.report.screen import STYLES, new_table, printable, short_release
from harness.report.summary import RunSummary, Summary

_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.MISS, Verdict.SKIP, Verdict.DONE, Verdict.PASS)


def oldest_first(kernels: Mapping[str, str]) -> list[str]:
    """Images by the version of their kernels."""

    def key(image: str) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", kernels[image])], image

    return sorted(kernels, key=key)


def matrix_table(summary: Summary) -> Table | None:
    """A row a scenario and a column an image; None where only one image ran."""
    kernels = {run.image: "" for run in summary.runs}
    kernels |= {run.image: run.kernel for run in summary.runs if run.kernel}
    if len(kernels) < 2:
        return None
    images = oldest_first(kernels)
    table = new_table()
    table.add_column("scenario")
    for image in images:
        version = short_release(kernels[image]) or "-"
        table.add_column(f"{image}\n{printable(version)}")
    for scenario in dict.fromkeys(run.scenario for run in summary.runs):
        runs = [run for run in summary.runs if run.scenario == scenario]
        cells = [_cell([run for run in runs if run.image == image]) for image in images]
        table.add_row(Text(printable(scenario)), *cells)
    return table


def _cell(runs: list[RunSummary]) -> Text:
    """The worst of the repetitions, and how many it was of them."""
    if not runs:
        return Text("-")
    worst = min((run.verdict for run in runs), key=_WORST.index)
    count = sum(run.verdict is worst for run in runs)
    share = f" {count}/{len(runs)}" if len(runs) > 1 else ""
    return Text(f"{worst}{share}", style=STYLES[worst])
