# SPDX-License-Identifier: Apache-2.0
"""Writes an audit as one HTML file that refers to no other, with the map of guest RAM."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.audit.account import Group, sum_of
from harness.audit.audit_document import Audit
from harness.audit.audit_text import PROMPTS, fact_lines, part_note
from harness.audit.part_words import GROUP_WORDS, KEEPER_WORDS, PART_WORDS
from harness.audit.vm_audit import Taken
from harness.errors import RecordError
from harness.html.memory_map import (
    HOST_MEANING,
    MEANING,
    MemoryMap,
    draw_classes,
    draw_residency,
)
from harness.html.rendering import render_page
from harness.kernel.oracle import classify
from harness.record.results_directory import write_whole
from harness.units import format_size


@dataclass(frozen=True)
class Bar:
    """A row of the table of parts."""

    words: str
    size: str
    share: float
    """Of the whole, 0 to 1; what is less than nothing is 0."""
    group: bool
    """It sums up the rows after it."""
    note: str


def audit_page(taken: Taken) -> str:
    """Make the page."""
    audit = taken.audit
    return render_page(
        "audit.html.j2",
        audit=audit,
        bars=list(_bars(audit)),
        facts=list(fact_lines(audit)),
        prompts=PROMPTS,
        keeper_words=KEEPER_WORDS,
        drawn=_map(taken),
        meaning=HOST_MEANING if taken.sides is None else MEANING,
        version=__version__,
        format_size=format_size,
    )


def write_page(taken: Taken, path: Path) -> None:
    """Write the page, whole or not at all, where a link leads. Raises `RecordError`."""
    try:
        write_whole(Path(os.path.realpath(path)), audit_page(taken).encode())
    except RecordError as error:
        raise RecordError(error.message, hint="free space there, or name another file") from error


def _map(taken: Taken) -> MemoryMap:
    if taken.sides is None or taken.audit.guest is None:
        return draw_residency(taken.states, taken.pieces)
    pages, order = taken.sides.part(0, taken.sides.pages), taken.audit.guest.order
    classes = classify(pages.before, pages.host, pages.after, taken.zones, order)
    return draw_classes(classes, taken.zones, order)


def _bars(audit: Audit) -> Iterator[Bar]:
    for group, words in GROUP_WORDS.items():
        parts = [part for part in audit.parts if part.group == group]
        if parts:
            yield _bar(audit, words, sum_of(audit.parts, group), group)
        for part in parts:
            if part.size:
                note = part_note(audit, part)
                yield _bar(audit, PART_WORDS[part.name], part.size, None, note)


def _bar(audit: Audit, words: str, size: int, group: Group | None, note: str = "") -> Bar:
    share = max(0.0, size / audit.total) if audit.total else 0.0
    return Bar(words, format_size(size), share, group is not None, note)
