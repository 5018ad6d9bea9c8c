# SPDX-License-Identifier: Apache-2.0
"""The runs that decide whether one commit or one build is good."""

import argparse
from collections.abc import Sequence

from harness.cli.bisect_rule import MOST_RUNS, may_say_more, runs_for_confidence, says_nothing
from harness.cli.carry_out import carry_out
from harness.cli.options import run_options
from harness.errors import ImageError, UsageError
from harness.image.qemu_definition import load_qemus
from harness.report.summary import RunSummary
from harness.run.plan import refuse_clock
from harness.run.qemus import choose_one_qemu
from harness.scenario.model import Scenario
from harness.scenario.permission import refuse_unallowed

TRIES = 3
"""How often runs that say nothing (MISS, ERROR) are made up for before the commit is skipped."""


def runs_wanted(options: argparse.Namespace) -> int:
    """Return how many runs must pass. Raises `UsageError`."""
    if (options.until_confident is None) != (options.fails_in is None):
        raise UsageError("--until-confident and --fails-in go together")
    if options.until_confident is None:
        return int(options.repeat)
    if options.repeat != 1:
        raise UsageError(
            "--repeat and --until-confident both say how many runs it takes",
            hint="give one of them",
        )
    try:
        runs = runs_for_confidence(options.until_confident, options.fails_in)
    except ValueError as error:
        raise UsageError(f"--until-confident, --fails-in: {error}") from error
    if runs > MOST_RUNS:
        raise UsageError(
            f"a bug that shows in {options.fails_in:g} of the runs takes more than "
            f"{MOST_RUNS:,} runs a commit",
            hint="make it show more often, or run a part of that with --repeat",
        )
    return runs


def refuse_for_any_build(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> None:
    """Raise `UsageError` for what is wrong whatever is built: it must not pass for a skip."""
    refuse_unallowed(scenarios, options.allow_qmp, qemu_args=options.allow_qemu_args)
    refuse_clock(scenarios, run_options(options).clock)
    choose_one_qemu(load_qemus(), options.qemu)


def run_until_decided(
    options: argparse.Namespace, scenarios: Sequence[Scenario], wanted: int
) -> list[RunSummary]:
    """Run until enough has passed or one run fails; runs that say nothing are made up for."""
    runs: list[RunSummary] = []
    for _ in range(TRIES):
        runs = [run for run in runs if not says_nothing(run)]
        options.repeat = wanted - len(runs)
        done = carry_out(options, scenarios, until_fail=True)
        runs += done.summary.runs
        # A tree that was not built, modules of another version: no other run boots it either.
        unbootable = any(isinstance(boot, ImageError) for boot in done.boots.values())
        if unbootable or not may_say_more(runs, wanted):
            break
    return runs
