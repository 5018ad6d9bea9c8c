# SPDX-License-Identifier: Apache-2.0
"""Write the reference of the command and of scenario files, from the parser and the models.

`make docs` writes them: docs/commands.md and docs/fields.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.cli.parser import EXIT_STATUS, build_parser
from harness.report.documents import one_line, render
from harness.report.steps_document import about_field, default_of
from harness.scenario.model import Balloon, Guest, Host, NumaNode, Scenario

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("", Scenario),
    ("guest.", Guest),
    ("guest.numa[]", NumaNode),
    ("balloon.", Balloon),
    ("host.", Host),
)
"""The models of a scenario file, each with where its fields stand."""


def commands_document() -> str:
    """Render docs/commands.md."""
    parser = build_parser()
    return render(
        "commands.md.j2",
        commands=list(_commands(parser, "fpr-harness")),
        statuses=_statuses(),
    )


def fields_document() -> str:
    """Render docs/fields.md."""
    return render(
        "fields.md.j2",
        sections=SECTIONS,
        fields=lambda model: model.model_fields.items(),
        about=about_field,
        default=default_of,
        one_line=one_line,
    )


def _statuses() -> list[tuple[str, str]]:
    """Return each exit status and what it says."""
    lines = EXIT_STATUS.splitlines()[1:]
    return [(words[0], words[1].strip()) for words in (line.split(None, 1) for line in lines)]


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[dict[str, Any]]:
    """Yield a command and those below it: name, description, arguments and options."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for word, below in action.choices.items():
            own = [each for each in below._actions if each.help != argparse.SUPPRESS]
            yield {
                "name": f"{name} {word}",
                "about": one_line(helps.get(word, "")),
                "text": _text(below),
                "arguments": [_row(each) for each in own if not each.option_strings and each.help],
                "options": [
                    _row(each) for each in own if each.option_strings and each.dest != "help"
                ],
            }
            yield from _commands(below, f"{name} {word}")


def _text(parser: argparse.ArgumentParser) -> tuple[str, bool]:
    """Return the description, and whether its lines are to stay as they are."""
    raw = parser.formatter_class is argparse.RawDescriptionHelpFormatter
    text = parser.description or ""
    return (text.strip() if raw else one_line(text)).replace("%%", "%"), raw


def _row(action: argparse.Action) -> tuple[str, str]:
    """Return an argument or option as it is typed, and what it does."""
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if isinstance(value, tuple):
        value = " ".join(value)
    if action.choices is not None and action.metavar is None:
        value = "|".join(map(str, action.choices))
    typed = ", ".join(action.option_strings)
    text = " ".join(filter(None, (typed, value if action.nargs != 0 else "")))
    about = one_line((action.help or "").replace("%%", "%"))
    return text.replace("|", "\\|"), about.replace("|", "\\|")


def write_reference(directory: Path) -> None:
    """Write both documents."""
    (directory / "commands.md").write_text(commands_document(), encoding="utf-8")
    (directory / "fields.md").write_text(fields_document(), encoding="utf-8")
