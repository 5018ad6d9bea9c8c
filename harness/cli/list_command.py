# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness list`: the scenarios, a line each."""

import argparse

from rich.console import Console
from rich.table import Table

from harness.scenario.load import load_all
from harness.scenario.model import SCENARIOS_DIR


def execute(_options: argparse.Namespace) -> int:
    """Print every scenario of the catalogue. Raises `ScenarioFileError` if one is broken."""
    table = Table(box=None, pad_edge=False)
    for column in ("scenario", "tags", "guest", "what it checks"):
        table.add_column(column, overflow="fold")
    for scenario in load_all(sorted(SCENARIOS_DIR.glob("*.yaml"))):
        guest = scenario.guest
        table.add_row(scenario.name, " ".join(scenario.tags), guest.summary, scenario.title)
    Console().print(table)
    return 0
