# SPDX-License-Identifier: Apache-2.0
"""Text of guests, files and names, made safe to show.

A guest's console, the name of a file or a field may hold anything: escapes that steer a terminal,
C1 controls, marks that turn the direction of writing. Every sink (terminal, table, JUnit, pytest,
error message) takes such text through one of the two functions here.
"""

REPLACEMENT = "\ufffd"


def safe_text(text: str) -> str:
    """`text` with line ends and printable characters only; each other character is U+FFFD.

    Not printable are the Unicode categories "other" (controls, formats such as the bidirectional
    ones, surrogates, unassigned) and "separator" but for the space (`str.isprintable`).
    """
    if text.isprintable():
        return text
    plain = text.expandtabs()
    return "".join(char if char.isprintable() or char == "\n" else REPLACEMENT for char in plain)


def safe_line(text: str) -> str:
    """The same on one line: for a name, a cell of a table, an attribute."""
    return text if text.isprintable() else safe_text(" ".join(text.split()))
