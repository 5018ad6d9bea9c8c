# SPDX-License-Identifier: Apache-2.0
"""What progress and table share: one way to a terminal, a pipe or a test's string."""

import os
from typing import IO, Protocol, cast

from rich.console import Console

from harness.ledger.facts import Verdict

PIPE_WIDTH = 100
"""Columns where there is no terminal to ask and COLUMNS is not set."""

STYLES = {
    Verdict.PASS: "green",
    Verdict.DONE: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.MISS: "bold yellow",
    Verdict.SKIP: "cyan",
}


class TextSink(Protocol):
    """As much of a text file as output needs."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


def make_console(file: TextSink | None = None) -> Console:
    """A console on `file` (None: standard output), without colour where it is no terminal or
    NO_COLOR is set."""
    console = Console(
        file=cast(IO[str], file) if file is not None else None, highlight=False, emoji=False
    )
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def printable(text: str) -> str:
    """`text` without what would steer a terminal: a guest's console may say anything."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
