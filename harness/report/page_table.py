# SPDX-License-Identifier: Apache-2.0
"""Print the history of one page: its state at every audit and every discard of it, in order."""

import errno
from dataclasses import dataclass

from rich.text import Text

from harness.kernel.zones import zone_name
from harness.record.page_life import CoveringDiscard, PageAtAudit
from harness.report.screen import TextSink, make_console, new_table, print_whole
from harness.safe_text import safe_line
from harness.units import PAGE_SIZE, format_size
from harness.verdict.one_page import conclude, guest_word


@dataclass(frozen=True)
class PageLife:
    """Everything known about one page of a run."""

    run_id: str
    pfn: int
    looks: tuple[PageAtAudit, ...]
    """Its state at each audit, in order; at least one."""
    discards: tuple[CoveringDiscard, ...]
    remarks: tuple[str, ...] = ()
    """What could not be read."""


def print_page(life: PageLife, file: TextSink | None = None) -> None:
    """Print where the page is, what happened to it, and the conclusion."""
    console = make_console(file)
    console.print(Text(safe_line(_where(life))), soft_wrap=True)
    table = new_table()
    table.add_column("at", justify="right")
    for name in ("what", "guest", "host", "cell", "free block"):
        table.add_column(name)
    rows = [(each.at, _audit_row(each)) for each in life.looks]
    # A discard without a time stamp may have happened at any time; it is listed first.
    rows += [(-1.0 if each.at is None else each.at, _discard_row(each)) for each in life.discards]
    for at, cells in sorted(rows, key=lambda row: row[0]):
        when = f"{at:.3f}s" if at >= 0 else "?"
        table.add_row(when, *(Text(safe_line(cell)) for cell in cells))
    console.print()
    print_whole(console, table)
    discards = sorted(life.discards, key=lambda each: each.at or 0.0)
    console.print()
    sentence = conclude(life.looks, discards)
    console.print(Text(safe_line(f"{sentence[0].upper()}{sentence[1:]}.")), soft_wrap=True)
    for remark in life.remarks:
        console.print(Text(safe_line(f"note: {remark}")), soft_wrap=True)


def _where(life: PageLife) -> str:
    # Unplugged memory has no address in later audits, so take the last one that has.
    look = next((each for each in reversed(life.looks) if each.piece), life.looks[-1])
    place = f"page {life.pfn:#x} of {life.run_id}: guest address {life.pfn * PAGE_SIZE:#x}"
    if look.piece is not None and look.address is not None:
        place += f", in QEMU's memory {look.address:#x} (block {look.piece.block})"
    zone = look.zone
    if zone is None:
        return f"{place}; not in any zone"
    watermark = "" if look.above_watermark else ", below its watermark at the last audit"
    return f"{place}; {zone_name(zone)}{watermark}"


def _audit_row(look: PageAtAudit) -> tuple[str, ...]:
    before, after = guest_word(look.before), guest_word(look.after)
    guest = after if before == after else f"{before}, then {after}"
    if look.held_by:
        guest += f" (pid {', '.join(map(str, look.held_by))})"
    block = look.block
    shown = "" if block is None else f"order {block.order}, {block.first:#x}-{block.last:#x}"
    return f"audit {look.audit}", guest, look.host.name.lower(), look.cell, shown


def _discard_row(discard: CoveringDiscard) -> tuple[str, ...]:
    size = format_size(discard.length)
    place = f"{discard.file}:{discard.line}"
    if discard.status:
        name = errno.errorcode.get(-discard.status, str(discard.status))
        return f"discard of {size} failed: {name} ({place})", "", "", "", ""
    start = "" if discard.address is None else f" from {discard.address:#x}"
    return f"discard of {size}{start} ({place})", "", "", "", ""
