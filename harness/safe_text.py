# SPDX-License-Identifier: Apache-2.0
"""Make text from guests, files and names safe to show.

A guest's console or a file's name may hold anything: terminal escape sequences, C1 controls, marks
that change the writing direction. Every sink (terminal, table, JUnit, pytest, error message) passes
such text through one of the two functions here.
"""

REPLACEMENT = "\ufffd"


def safe_text(text: str) -> str:
    """Replace each character of `text` that is neither printable nor a line end by U+FFFD.

    Characters are not printable in the Unicode categories "other" (controls, formats such as the
    bidirectional marks, surrogates, unassigned) and "separator", except for the space
    (`str.isprintable`). Tabs become spaces.
    """
    if text.isprintable():
        return text
    plain = text.expandtabs()
    return "".join(char if char.isprintable() or char == "\n" else REPLACEMENT for char in plain)


def safe_line(text: str) -> str:
    """Make `text` safe like `safe_text`, on one line: for a name, a table cell, an attribute."""
    return text if text.isprintable() else safe_text(" ".join(text.split()))
