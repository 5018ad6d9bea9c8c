# SPDX-License-Identifier: Apache-2.0
"""Print a comparison: per scenario its verdicts, then a row for each measure, differences first."""

from rich.text import Text

from harness.compare.comparison import Comparison, MeasureCompared
from harness.compare.words import amount, change, conclusion, interval, measure_words, verdict_words
from harness.report.screen import TextSink, make_console, new_table, print_whole
from harness.safe_text import safe_line

_ORDER = ("differs", "not-told", "too-few", "one-sided")
"""`same` has no row: what never varies is only counted."""


def print_comparison(found: Comparison, file: TextSink | None = None) -> None:
    """Print what the runs say of every scenario, and the conclusion."""
    console = make_console(file)
    for verdicts in found.verdicts:
        console.print(f"\n{safe_line(verdicts.scenario)}", style="bold")
        console.print(safe_line(verdict_words(verdicts)), soft_wrap=True)
        measures = [each for each in found.measures if each.scenario == verdicts.scenario]
        rows = sorted(
            (each for each in measures if each.answer in _ORDER),
            key=lambda each: _ORDER.index(each.answer),
        )
        if rows:
            table = new_table()
            table.add_column("measure")
            for name in ("A", "B", "B - A", "95% interval", "p"):
                table.add_column(name, justify="right")
            table.add_column("in words")
            for each in rows:
                table.add_row(*_cells(each, found.needed))
            print_whole(console, table)
        if len(rows) < len(measures):
            console.print(f"{len(measures) - len(rows)} measures are the same in all runs.")
    console.print(f"\n{conclusion(found)}", soft_wrap=True)


def _cells(each: MeasureCompared, needed: int) -> list[Text]:
    name, found = each.measure, each.shift
    cells = [name, "-", "-", "-", "-", "-"]
    if found is not None:
        cells[1:4] = [
            amount(name, found.median_a),
            amount(name, found.median_b),
            change(name, found.difference, found.median_a),
        ]
    if found is not None and each.answer != "too-few":
        cells[4] = interval(name, found)
        cells[5] = "-" if each.p is None else f"{each.p:.2g}"
    style = "bold" if each.answer == "differs" else ""
    return [Text(safe_line(cell), style=style) for cell in (*cells, measure_words(each, needed))]
