# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness run`: run scenarios, and show their verdicts in a table."""

import argparse

from harness.act.discover import VERBS
from harness.cli.carry_out import carry_out
from harness.cli.options import check_run_options, scenarios_directory
from harness.errors import UsageError
from harness.scenario.selection import find_scenarios


def execute(options: argparse.Namespace) -> int:
    """Run, judge and report; returns the exit status of the verdicts (0, 1, 69 or 77).

    Raises `UsageError`, `ScenarioFileError`, `RecordError`.
    """
    check_run_options(options)
    if options.scenarios and options.tag:
        raise UsageError("scenarios and --tag cannot be given together")
    scenarios = find_scenarios(
        options.scenarios,
        VERBS,
        options.overrides,
        scenarios_directory(options),
        tags=options.tag,
    )
    return carry_out(options, scenarios).status
