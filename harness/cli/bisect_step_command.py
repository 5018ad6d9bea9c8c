# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness bisect-step`: one commit, built and run, for `git bisect run`."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from harness.act.discover import VERBS
from harness.cli.bisect_rule import SKIP, STOP, answer, runs_for_confidence, says_nothing
from harness.cli.carry_out import carry_out
from harness.cli.options import check_run_options, scenarios_directory
from harness.errors import HarnessError, ScenarioFileError, UsageError
from harness.report.summary import RunSummary
from harness.safe_text import safe_text
from harness.scenario.load import find_scenarios
from harness.scenario.model import Scenario

TRIES = 3
"""How often runs that say nothing (MISS, ERROR) are made up for before the commit is skipped."""


def execute(options: argparse.Namespace) -> int:
    """Build, run, and return what `git bisect run` understands."""
    try:
        wanted, scenarios = _plan(options)
    except (UsageError, ScenarioFileError) as error:
        return _say(STOP, "stop", str(error))
    if options.build is not None:
        status = subprocess.run(options.build, shell=True, check=False).returncode
        if status:
            return _say(SKIP, "skip", f"the build exited with {status}: {options.build}")
    try:
        check_run_options(options)
        runs = _runs(options, scenarios, wanted)
    except HarnessError as error:
        # A tree that was not built, modules of another version: it may be so for this commit alone.
        return _say(SKIP, "skip", str(error))
    found = answer(runs, wanted)
    return _say(found.status, found.word, found.why)


def _plan(options: argparse.Namespace) -> tuple[int, Sequence[Scenario]]:
    """How many runs must pass, and the scenario. Raises `UsageError`, `ScenarioFileError`."""
    if (options.until_confident is None) != (options.fails_in is None):
        raise UsageError("--until-confident and --fails-in go together")
    if options.until_confident is not None:
        try:
            options.repeat = runs_for_confidence(options.until_confident, options.fails_in)
        except ValueError as error:
            raise UsageError(f"--until-confident, --fails-in: {error}") from error
    if options.results is not None:
        raise UsageError(
            "--results names one directory, and a bisection runs many times",
            hint="leave it out: each step has a directory of its own in results/",
        )
    directory = scenarios_directory(options)
    scenarios = find_scenarios([options.scenario], VERBS, options.overrides, directory, tags=[])
    if options.repeat < 1:
        raise UsageError("--repeat takes a number of at least 1")
    if len(options.image) > 1 or len(options.qemu) > 1:
        raise UsageError("a step is of one guest under one QEMU: give --image and --qemu once")
    return options.repeat, scenarios


def _runs(
    options: argparse.Namespace, scenarios: Sequence[Scenario], wanted: int
) -> list[RunSummary]:
    """Run until enough has passed or one run fails; runs that say nothing are made up for."""
    runs: list[RunSummary] = []
    for _ in range(TRIES):
        runs = [run for run in runs if not says_nothing(run)]
        options.repeat = wanted - len(runs)
        runs += carry_out(options, scenarios, until_fail=True).summary.runs
        undecided = answer(runs, wanted).status == SKIP
        if not undecided or not any(says_nothing(run) for run in runs):
            break
    return runs


def _say(status: int, word: str, why: str) -> int:
    print(f"bisect-step: {word}: {safe_text(why)}", file=sys.stderr)
    return status
