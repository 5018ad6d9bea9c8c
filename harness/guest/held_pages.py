# SPDX-License-Identifier: Apache-2.0
"""What the guest tool says of memory that it held and verified (guest-images/tool/hold.c)."""

from dataclasses import dataclass

from harness.errors import GuestError
from harness.guest.tool_lines import ToolLine, ToolOutput

TOLD_MISMATCHES = 16
"""How many the tool describes (churn.c); a guest that means harm never stops."""


@dataclass(frozen=True)
class Verified:
    """What a check of every held word found."""

    checked_bytes: int
    """In pages that were compared with their pattern."""
    held_bytes: int
    """What the harness knows to be held, from what was filled and freed: where it is more than
    `checked_bytes`, pages were not looked at."""
    mismatched_pages: int
    damaged: int
    """Damaged entries of the tool's own bookkeeping, and 1 more where its code has changed: memory
    of the guest like any other, lost like any other."""
    details: tuple[str, ...]
    """The tool's words on the first mismatches (page, PFN, offset, expected, found), and on its
    own damage."""


def read_verified(
    lines: ToolOutput, timeout: float, mismatches: "Mismatches", held: int
) -> Verified:
    """The next `verified` line. `held`: bytes that the harness knows to be held.

    Raises what `ToolOutput.await_line` raises, and `GuestError` for more than that.
    """
    line = lines.await_line("verified", timeout, mismatches)
    checked = int(line.value("bytes"))
    if checked > held:
        raise GuestError(
            f"{lines.name} was asked to hold {held} bytes and says that it checked {checked}",
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
    """Keeps the tool's words on wrong pages: a `note` for `ToolOutput.await_line`."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, line: ToolLine) -> None:
        if line.word == "mismatch" and len(self.words) < TOLD_MISMATCHES:
            self.words.append(line.text)
