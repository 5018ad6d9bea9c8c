# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness show`: what a scenario asks and why, its steps, and what it expects."""

import argparse
import re
from collections.abc import Iterator

from harness.act.discover import VERBS
from harness.cli.options import scenarios_directory
from harness.report.scenario_words import (
    expectations,
    guest_words,
    invariants_words,
    red_words,
)
from harness.report.screen import ScreenConsole
from harness.safe_text import safe_text
from harness.scenario.model import Scenario
from harness.scenario.selection import find_scenarios
from harness.units import format_seconds, format_size

_AT_AUDIT = re.compile(r"^at \*([\w.-]+)\* ")
_MARKS = re.compile(r"\*([\w.-]+)\*|`")

WIDE = 20
"""Columns of the names on the left."""


def execute(options: argparse.Namespace) -> int:
    """Print every chosen scenario; returns 0. Raises `UsageError`, `ScenarioFileError`."""
    scenarios = find_scenarios(options.scenarios, VERBS, directory=scenarios_directory(options))
    console = ScreenConsole(markup=False, highlight=False)
    for number, scenario in enumerate(scenarios):
        # Not wrapped, so that grep finds whole lines.
        text = "\n".join([""] * bool(number) + list(lines(scenario)))
        console.print(safe_text(text), soft_wrap=True)
    return 0


def lines(scenario: Scenario) -> Iterator[str]:
    """Yield the lines that describe a scenario."""
    yield f"{scenario.name}: {scenario.title}"
    if scenario.about.strip():
        yield ""
        yield from (f"  {line}".rstrip() for line in scenario.about.strip().splitlines())
    yield ""
    for name, values in _facts(scenario).items():
        for place, value in enumerate(value for value in values if value):
            yield f"{'' if place else name:{WIDE}}{_plain(value)}"


def _facts(scenario: Scenario) -> dict[str, list[str]]:
    """Return lines by name; a name without any is left out."""
    steps = [f"{number}. {step.in_words()}" for number, step in enumerate(scenario.steps, 1)]
    length = format_seconds(scenario.expected_seconds)
    memory = format_size(scenario.host_memory)
    return {
        "reference": [scenario.reference],
        "tags": [" ".join(scenario.tags)],
        "guest": [guest_words(scenario)],
        "takes": [f"about {length} under TCG, and {memory} of the host's memory for its guests"],
        "steps": steps,
        "expects": expectations(scenario) or ["nothing; it only measures"],
        "always checked": invariants_words(scenario).split(", "),
        "answers with": list(scenario.answer),
        "must not pass with": red_words(scenario).split(", "),
    }


def _plain(text: str) -> str:
    """Drop Markdown's marks, but not the sign of a multiplication."""
    return _MARKS.sub(r"\1", _AT_AUDIT.sub(r"\1: ", text))
