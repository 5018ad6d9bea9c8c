# SPDX-License-Identifier: Apache-2.0
"""What the guest tool reports of memory that it held and verified (guest-images/tool/hold.c)."""

from dataclasses import dataclass

from harness.errors import GuestError
from harness.guest.tool_lines import ToolLine, ToolOutput

TOLD_MISMATCHES = 16
"""Mismatches that the tool describes (hold.c); a hostile guest might send them without end."""


@dataclass(frozen=True)
class Verified:
    """What a check of every held word found."""

    checked_bytes: int
    """Bytes of the pages compared with their pattern."""
    held_bytes: int
    """Bytes held according to the harness, from what was filled and freed. If more than
    `checked_bytes`, the tool did not check every page."""
    mismatched_pages: int
    damaged: int
    """Damaged entries of the tool's own bookkeeping, plus 1 if its code has changed: the tool lies
    in guest memory, which can be lost."""
    details: tuple[str, ...]
    """The tool's lines on the first mismatches (page, PFN, offset, expected, found) and on damage
    to itself."""


def read_verified(
    lines: ToolOutput, timeout: float, mismatches: "Mismatches", held: int
) -> Verified:
    """Wait for the next `verified` line.

    `held`: bytes that the harness knows to be held. Raises what `ToolOutput.await_line` raises, and
    `GuestError` if the tool claims to have checked more than `held`.
    """
    line = lines.await_line("verified", timeout, mismatches)
    checked = int(line.value("bytes"))
    if checked > held:
        raise GuestError(
            f"{lines.name} was asked to hold {held} bytes but claims to have checked {checked}",
            hint=lines.hint,
        )
    damaged = int(line.value("damaged_entries")) + int(line.value("text_changed"))
    if damaged:
        mismatches.words.append(f"{lines.name}'s own memory is damaged: {line.text}")
    return Verified(
        checked_bytes=checked,
        held_bytes=held,
        mismatched_pages=int(line.value("mismatched_pages")),
        damaged=damaged,
        details=tuple(mismatches.words),
    )


class Mismatches:
    """Keeps the tool's `mismatch` lines: a `note` for `ToolOutput.await_line`."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, line: ToolLine) -> None:
        if line.word == "mismatch" and len(self.words) < TOLD_MISMATCHES:
            self.words.append(line.text)
