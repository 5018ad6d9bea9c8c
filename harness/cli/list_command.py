# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness list`: list the scenarios by tag, one line each, with duration and needs."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.act.discover import VERBS
from harness.cli.options import scenarios_directory
from harness.errors import UsageError
from harness.machine.needs import NEEDS, PREFIX
from harness.report.screen import ScreenConsole
from harness.safe_text import safe_text
from harness.scenario.model import Scenario
from harness.scenario.selection import ALL_TAG, DEFAULT_TAG, find_scenarios
from harness.units import format_seconds, format_size

GROUPS = {
    DEFAULT_TAG: "what `run` runs by default",
    "full": "the rest of the catalogue, except for the groups below",
    "long": "several minutes each",
    "madv-free": "MADV_DONTNEED and MADV_FREE on the host compared",
}
"""Tags that group the list; a scenario is listed under the first one it has."""

CONTROL = "control"
"""Tag of scenarios in which memory must not come back."""


SCHEMA = 1
"""Version of what `--json` prints."""


def execute(options: argparse.Namespace) -> int:
    """Print the chosen scenarios, or the whole catalogue.

    Raises `UsageError`, and `ScenarioFileError` if a file is broken.
    """
    if options.scenarios and options.tag:
        raise UsageError("scenarios and --tag cannot be given together")
    scenarios = find_scenarios(
        options.scenarios,
        VERBS,
        directory=scenarios_directory(options),
        tags=options.tag or [ALL_TAG],
    )
    if options.json:
        print(json.dumps({"schema": SCHEMA, "scenarios": [facts(each) for each in scenarios]}))
        return 0
    console = ScreenConsole(markup=False, highlight=False)
    for line in lines(scenarios):
        console.print(safe_text(line), soft_wrap=True)
    return 0


def facts(scenario: Scenario) -> dict[str, Any]:
    """Return what `list --json` says of a scenario: sizes in bytes, times in seconds."""
    return {
        "name": scenario.name,
        "title": scenario.title,
        "tags": list(scenario.tags),
        "needs": [tag for tag in scenario.tags if tag in NEEDS],
        "reference": scenario.reference,
        "guest_memory": scenario.guest.memory,
        "host_memory": scenario.host_memory,
        "vcpus": scenario.guest.vcpus,
        "expected_seconds": round(scenario.expected_seconds, 1),
        "expect": scenario.asked.conditions,
        "answer": list(scenario.answer),
    }


def lines(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """Yield the lines of the list."""
    wide = max(len(scenario.name) for scenario in scenarios)
    groups: dict[str, list[Scenario]] = {name: [] for name in (*GROUPS, "other")}
    for scenario in scenarios:
        group = next((name for name in GROUPS if name in scenario.tags), "other")
        groups[group].append(scenario)
    for name, members in groups.items():
        if not members:
            continue
        about = f": {GROUPS[name]}" if name in GROUPS else ""
        yield f"{name}{about} ({_amount(members)})"
        above = sum(name in each.tags for each in scenarios) - len(members)
        if above > 0:
            yield f"  and {above} of those above, which also have this tag"
        title = ""
        for scenario in members:
            # Variants of a scenario have the same title.
            shown = scenario.title if scenario.title != title else '"'
            title = scenario.title
            size = format_size(scenario.guest.memory)
            needs = [tag.removeprefix(PREFIX) for tag in scenario.tags if tag in NEEDS]
            needs = [f"{size}{' x 2' if scenario.leaves_its_connection else ''}", *needs]
            needs += [CONTROL] if CONTROL in scenario.tags else []
            yield (
                f"  {scenario.name:{wide}}  {format_seconds(scenario.expected_seconds):>6}"
                f"  {' '.join(needs):16}  {shown}"
            )
        yield ""
    yield f"in total: {_amount(scenarios)}; durations are estimates for TCG"
    yield ""
    yield "Beside each name: the duration, the guest's memory, and"
    for tag, need in NEEDS.items():
        yield f"  {tag.removeprefix(PREFIX):8}  needs {need.about}; without it, a SKIP"
    yield f"  {CONTROL:8}  a negative control: no reporting or no driver, nothing may come back"


def _amount(scenarios: Sequence[Scenario]) -> str:
    total = format_seconds(sum(each.expected_seconds for each in scenarios))
    return f"{len(scenarios)}, about {total} one after another"
