# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness list`: list the scenarios by tag, one line each, with duration and needs."""

import argparse
from collections.abc import Iterator, Sequence

from harness.act.discover import VERBS
from harness.cli.options import scenarios_directory
from harness.machine.needs import NEEDS, PREFIX
from harness.report.screen import ScreenConsole
from harness.safe_text import safe_text
from harness.scenario.load import DEFAULT_TAG, load_all
from harness.scenario.model import Scenario
from harness.units import format_size

GROUPS = {
    DEFAULT_TAG: "what `run` runs by default",
    "full": "the rest of the catalogue, except for the groups below",
    "long": "several minutes each",
    "madv-free": "MADV_DONTNEED and MADV_FREE on the host compared",
}
"""Tags that group the list; a scenario is listed under the first one it has."""

CONTROL = "control"
"""Tag of scenarios in which memory must not come back."""


def execute(options: argparse.Namespace) -> int:
    """Print every scenario of the catalogue.

    Raises `UsageError`, and `ScenarioFileError` if a file is broken.
    """
    console = ScreenConsole(markup=False, highlight=False)
    for line in lines(load_all(sorted(scenarios_directory(options).glob("*.yaml")), VERBS)):
        console.print(safe_text(line), soft_wrap=True)
    return 0


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
                f"  {scenario.name:{wide}}  {_length(scenario.expected_seconds):>6}"
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
    total = _length(sum(each.expected_seconds for each in scenarios))
    return f"{len(scenarios)}, about {total} one after another"


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
