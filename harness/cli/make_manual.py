# SPDX-License-Identifier: Apache-2.0
"""`python -m harness.cli.make_manual DIRECTORY`: write the man page and the shell completions.

They go where an installation has them below its prefix (`share/`), and are made from the parser
(`make docs`). Completions offer the scenarios, tags, images and QEMUs that the project has.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab
from argparse_manpage.manpage import Manpage

from harness import __version__
from harness.act.discover import VERBS
from harness.cli.parser import EXIT_STATUS, build_parser
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.scenario.selection import ALL_TAG, find_scenarios

SHORT = "does free page reporting give a guest's freed memory back to the host?"

FILES = {
    "bash": "bash-completion/completions/fpr-harness",
    "zsh": "zsh/site-functions/_fpr-harness",
    "fish": "fish/vendor_completions.d/fpr-harness.fish",
}
"""Where each shell looks, below `share/`."""

MAN_PAGE = "man/man1/fpr-harness.1"

EXAMPLES = """\
Run the default scenarios on a kernel that was built in ~/linux:
    fpr-harness run --kernel ~/linux
Run what has to do with reclaim, five times, and fail on what fails once:
    fpr-harness run 'reclaim-*' --repeat 5
Look for the commit that broke a scenario:
    git bisect run fpr-harness bisect-step reclaim-basic --build 'make -j8' --kernel ."""

RESULTS = """\
results/latest
    the latest results directory: results.jsonl, summary.json, junit.xml, report.html, and a
    directory for each run with its logs, samples, audits and repro.sh"""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def man_page() -> str:
    """Return the man page as roff."""
    parser = build_parser()
    parser.epilog = None
    # Without a date, the page changes only when the command does.
    data = {"manual_title": "User Commands", "date": " ", "version": __version__}
    parser.man_short_description = SHORT  # type: ignore[attr-defined]
    page = Manpage(parser, _data=data)
    for heading, text in (
        ("exit status", EXIT_STATUS.partition("\n")[2]),
        ("examples", EXAMPLES),
        ("files", RESULTS),
        ("see also", "git-bisect(1), qemu-system-x86_64(1)"),
    ):
        page.add_section(heading, "=", _verbatim(text))
    return str(page)


def _verbatim(text: str) -> str:
    """Format text whose lines stay as they are."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    lines = (f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines())
    return "\n".join((".nf", *lines, ".fi"))


def completion(shell: str) -> str:
    """Return the completions for `shell`, one of `FILES`."""
    parser = build_parser()
    offered = _offered()
    for each in parsers(parser):
        for action in each._actions:
            kind = _kind(action)
            if kind in offered:
                action.complete = _words(kind, offered[kind])  # type: ignore[attr-defined]
            elif kind:
                chosen = shtab.DIRECTORY if kind == "directory" else shtab.FILE
                action.complete = chosen  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _kind(action: argparse.Action) -> str:
    """Return what a word of the action names; empty: something that cannot be completed."""
    named = {"scenarios": "scenario", "scenario": "scenario", "image": "image", "qemu": "qemu"}
    if action.type is None and action.dest in {*named, "tag"}:
        return named.get(action.dest, action.dest)
    if action.type is None:
        return ""
    if action.type in (int, float):
        return ""
    return "directory" if action.metavar == "DIR" else "file"


def _offered() -> dict[str, list[str]]:
    scenarios = find_scenarios([], VERBS, tags=[ALL_TAG])
    return {
        "scenario": [scenario.name for scenario in scenarios],
        "tag": sorted({ALL_TAG, *(tag for each in scenarios for tag in each.tags)}),
        "image": [*load_definitions(), "all"],
        "qemu": [*load_qemus(), "host", "all"],
    }


def _words(kind: str, words: list[str]) -> dict[str, Any]:
    """Return shtab's `complete` that offers words, and files where a file may be named."""
    name, listed = f"_fpr_harness_{kind}", " ".join(words)
    files = kind in ("scenario", "qemu")
    bash = f'compgen -W "{listed}" -- "$1"' + ('; compgen -f -- "$1"' if files else "")
    zsh = f"compadd -- {listed}" + ("; _files" if files else "")
    return {
        "bash": name,
        "zsh": name,
        "fish": listed,
        "preamble": {"bash": f"{name}() {{ {bash}; }}", "zsh": f"{name}() {{ {zsh}; }}"},
    }


def write(share: Path) -> None:
    """Write the man page and all completions below `share`. Raises `OSError`."""
    # argparse wraps usages to the width of the terminal.
    os.environ["COLUMNS"] = "80"
    texts = {MAN_PAGE: man_page(), **{FILES[shell]: completion(shell) for shell in FILES}}
    for name, text in texts.items():
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
