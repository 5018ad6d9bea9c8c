# SPDX-License-Identifier: Apache-2.0
"""Console and tables that progress and reports share, for a terminal, a pipe or a string."""

import os
from typing import IO, Protocol, cast

from rich.console import Console
from rich.table import Table

from harness.record.facts import Verdict

PIPE_WIDTH = 100
"""Width if the output is not a terminal and COLUMNS is not set."""

STYLES = {
    Verdict.PASS: "green",
    Verdict.DONE: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.MISS: "bold yellow",
    Verdict.SKIP: "cyan",
}


_ENDLESS = 10_000
"""A width that no table reaches."""


class TextSink(Protocol):
    """The methods of a text file that output needs."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


LEAST_WIDTH = 20


class ScreenConsole(Console):
    """rich's own ends the process with status 1, which says FAIL, when nobody reads its output."""

    def on_broken_pipe(self) -> None:
        raise


def make_console(file: TextSink | None = None) -> Console:
    """Make a console on `file` (None: standard output).

    It has no colour if the file is not a terminal or NO_COLOR is set.
    """
    console = ScreenConsole(
        file=cast(IO[str], file) if file is not None else None, highlight=False, emoji=False
    )
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    # COLUMNS may hold any number, and a terminal report none; with 0 nothing would be shown.
    # Otherwise the width is not fixed, as a terminal may be resized.
    if console.width < LEAST_WIDTH:
        console.width = LEAST_WIDTH
    return console


def new_table(*, headed: bool = True) -> Table:
    """Make a table without lines, the style of all the project's tables."""
    return Table(
        box=None, pad_edge=False, show_header=headed, header_style="bold", padding=(0, 2, 0, 0)
    )


def print_whole(console: Console, table: Table) -> None:
    """Print a table without wrapping its lines, so that grep finds whole names."""
    endless = console.options.update(width=_ENDLESS)
    table.width = console.measure(table, options=endless).maximum
    console.print(table, soft_wrap=True)


def short_release(release: str) -> str:
    """Strip Debian's flavour from a kernel release: `6.1.0-50`."""
    return release.removesuffix("-amd64").removesuffix("-cloud")
