# SPDX-License-Identifier: Apache-2.0
"""Print what each setting saves and costs, what to take, and by which rule."""

from collections.abc import Sequence

from rich.text import Text

from harness.compare.sizing import ALIKE, NEARLY, Outcome, recommend, saved
from harness.report.screen import TextSink, make_console, new_table, print_whole
from harness.units import format_size

_HEADS = ("held", "saved", "GiB x min", "main", "vCPUs", "others", "a page again")


def print_sizing(off: Outcome | None, found: Sequence[Outcome], file: TextSink) -> None:
    """Print the table and the recommendation; without `off` nothing can be recommended."""
    console = make_console(file)
    table = new_table()
    table.add_column("setting")
    for head in _HEADS:
        table.add_column(head, justify="right")
    for each in ([off] if off is not None else []) + list(found):
        table.add_row(*(Text(cell) for cell in _cells(off, each)))
    print_whole(console, table)
    console.print(
        "held: by the host, mean over the time; saved: than with reporting off; main, vCPUs, "
        "others: CPU seconds of QEMU's threads, in brackets those more than off; a page again: to "
        "write memory that had come back. Medians of the runs.",
        style="dim",
    )
    console.print(f"\n{advice(off, found)}", soft_wrap=True)


def _cells(off: Outcome | None, each: Outcome) -> tuple[str, ...]:
    name = each.setting.name if each.setting is not None else "off"
    reports = each.setting is not None and off is not None
    less = "-"
    if off is not None and each.setting is not None:
        less = _signed(saved(off, each))
    cpu = []
    for kind, seconds in each.cpu.items():
        more = f" ({seconds - off.cpu[kind]:+.1f})" if reports and off is not None else ""
        cpu.append(f"{seconds:.1f}{more}")
    refill = "-" if each.refill is None else f"{1e6 * each.refill:.2f} us"
    held = format_size(round(each.held))
    return name, held, less, f"{each.footprint:.3f}", *cpu, refill


def _signed(size: float) -> str:
    return ("-" if size < 0 else "") + format_size(abs(round(size)))


def advice(off: Outcome | None, found: Sequence[Outcome]) -> str:
    """Say which setting to take, and why."""
    if off is None:
        return "No recommendation: the run without reporting, to compare with, broke."
    if not found:
        return "No recommendation: no setting was measured."
    best = recommend(off, found)
    if best is None:
        return "No recommendation: no setting saves memory in this guest."
    assert best.setting is not None
    extra = best.cpu_seconds - off.cpu_seconds
    return (
        f"Take {best.setting.name}: it saves {_signed(saved(off, best))} for {extra:+.1f} CPU "
        f"seconds. The rule: of the settings that save at least {NEARLY:.0%} of the most, the one "
        f"that takes least CPU; those within {ALIKE:.0%} of the CPU time without reporting count "
        "as alike, and of them the largest order is taken, then the longest delay."
    )
