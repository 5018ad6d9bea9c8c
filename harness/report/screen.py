# SPDX-License-Identifier: Apache-2.0
"""What progress and table share: one way to a terminal, a pipe or a test's string."""

import os
from typing import IO, Protocol, cast

from rich.console import Console
from rich.table import Table

from harness.record.facts import Verdict

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


_ENDLESS = 10_000
"""Columns that no table needs."""


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


def new_table(*, headed: bool = True) -> Table:
    """A table without lines, as all of the project's are."""
    return Table(
        box=None, pad_edge=False, show_header=headed, header_style="bold", padding=(0, 2, 0, 0)
    )


def print_whole(console: Console, table: Table) -> None:
    """Print a table whose lines may run over the width: no grep finds a name in two halves."""
    endless = console.options.update(width=_ENDLESS)
    table.width = console.measure(table, options=endless).maximum
    console.print(table, soft_wrap=True)


def short_release(release: str) -> str:
    """A kernel's release without the flavour that Debian's have: `6.1.0-50`."""
    return release.removesuffix("-amd64").removesuffix("-cloud")
