# SPDX-License-Identifier: Apache-2.0
"""The table that goes under a patch series: what changed, each number with its interval. Pure.

Plain text of 75 columns, as `harness.report.mail` writes it. The rows are what maintainers asked of
the series that brought free page reporting: memory back, how soon, the page fault rate by
processes and by threads (will-it-scale's page_fault1, and page_fault2 for private mappings of a
file), and what the hypervisor pays.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.compare.comparison import Comparison, MeasureCompared, compare
from harness.compare.words import amount, change, conclusion, interval, verdict_words
from harness.measure.measures import unit_of
from harness.measure.terms import Unit
from harness.report.mail import COLUMNS
from harness.report.summary import RunSummary
from harness.safe_text import safe_line

ROWS = {
    "reclaimed_bytes": "memory back on the host",
    "settle_t90_seconds": "until 90 % of it was (t90)",
    "footprint_gib_minutes": "held, GiB x minutes",
    "faults_process_base_on_per_second": "page faults/s, processes",
    "faults_thread_base_on_per_second": "page faults/s, threads",
    "faults_process_huge_on_per_second": "huge faults/s, processes",
    "faults_thread_huge_on_per_second": "huge faults/s, threads",
    "faults_process_file_on_per_second": "file faults/s, processes",
    "faults_thread_file_on_per_second": "file faults/s, threads",
    "refill_page_seconds": "to write a page again",
    "qemu_main_cpu_fraction": "CPU, QEMU's main thread",
    "qemu_vcpus_cpu_fraction": "CPU, its vCPU threads",
    "qemu_others_cpu_fraction": "CPU, its other threads",
}
"""Measures in the table's order, with their words."""

_WIDTHS = (27, 9, 9, 8)
"""Columns of words, A, B and difference; the interval takes the rest."""

_SHORT_SECONDS = 1e-4
"""What is shorter is told in microseconds."""

_MARK = {"differs": "*", "too-few": "?"}


@dataclass(frozen=True)
class Sides:
    """What A and B are, and where they ran."""

    a: str
    b: str
    host: str


def compose_series(sides: Sides, a: Sequence[RunSummary], b: Sequence[RunSummary]) -> str:
    """Return the text: what was compared, a table for each scenario, and what to make of it.

    Raises `ValueError` if the sides have no scenario in common, or took none of the measures.
    """
    found = compare(a, b, list(ROWS))
    if not found.verdicts:
        raise ValueError("A and B have no scenario in common")
    if not found.measures:
        raise ValueError("no run took a measure of the table")
    lines = [*_about(sides, [*a, *b]), *_tables(found), "", *_wrapped(_reading(found))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _about(sides: Sides, runs: Sequence[RunSummary]) -> Iterator[str]:
    machines = {f"QEMU {r.qemu or '?'}, {(r.accel or '?').upper()}" for r in runs}
    for name, value in (
        ("A:", _kernel(sides.a, "A", runs)),
        ("B:", _kernel(sides.b, "B", runs)),
        ("QEMU:", "; ".join(sorted(machines)).replace("QEMU ", "")),
        ("Host:", sides.host),
    ):
        yield from _wrapped(value, first=f"{name:6}", rest=" " * 6)


def _kernel(named: str, label: str, runs: Sequence[RunSummary]) -> str:
    releases = sorted({r.kernel for r in runs if r.kernel and f"+{label}#" in r.run_id})
    return f"{named} (Linux {', '.join(releases)})" if releases else named


def _tables(found: Comparison) -> Iterator[str]:
    for verdicts in found.verdicts:
        yield ""
        yield from _wrapped(f"{verdicts.scenario}: {verdict_words(verdicts)}")
        yield ""
        yield _row("", "A", "B", "B - A", "95% interval")
        mine = {each.measure: each for each in found.measures if each.scenario == verdicts.scenario}
        for measure, words in ROWS.items():
            if measure in mine:
                yield _row(words, *_cells(mine[measure]))


def _cells(each: MeasureCompared) -> tuple[str, str, str, str]:
    name, shift = each.measure, each.shift
    if each.answer == "same":
        value = _amount(name, each.a[0])
        return value, value, "same", "in all runs"
    if shift is None:
        sides = (_amount(name, _median(side)) if side else "-" for side in (each.a, each.b))
        a, b = sides
        return a, b, "-", f"{len(each.a)} and {len(each.b)} runs {_MARK['too-few']}"
    mark = _MARK.get(each.answer, "")
    return (
        _amount(name, shift.median_a),
        _amount(name, shift.median_b),
        change(name, shift.difference, shift.median_a),
        f"{interval(name, shift)} {mark}".rstrip(),
    )


def _amount(measure: str, value: float) -> str:
    if unit_of(measure) is Unit.PER_SECOND:
        return f"{value:,.0f}"
    if unit_of(measure) is Unit.SECONDS and 0 < value < _SHORT_SECONDS:
        return f"{1e6 * value:.3g} us"
    return amount(measure, value)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def _row(words: str, *cells: str) -> str:
    first, *numbers = _WIDTHS
    padded = [cell.rjust(width) for cell, width in zip(cells, numbers, strict=False)]
    return f"{words:{first}}{' '.join(padded)}  {cells[-1]}"


def _reading(found: Comparison) -> str:
    return (
        "A and B ran in turn. Medians; B - A is their difference as a part of A's, with the "
        "interval of the percentile bootstrap. * differs by a permutation test of the ranks, "
        f"corrected for all {found.tests} comparisons (Holm); ? too few runs to say. CPU is in "
        f"cores, while memory came back. {conclusion(found)}"
    )


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        safe_line(text),
        COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
