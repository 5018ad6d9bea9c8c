# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness bisect-step`: one commit, built and run, for `git bisect run`."""

import argparse
import sys
from collections.abc import Sequence

from harness.act.discover import VERBS
from harness.cli.bisect_rule import (
    SKIP,
    STOP,
    answer,
)
from harness.cli.bisect_runs import refuse_for_any_build, run_until_decided, runs_wanted
from harness.cli.build_step import BuildFailedError, run_build
from harness.cli.options import check_paths, check_run_options, scenarios_directory
from harness.errors import (
    HarnessError,
    InterruptedRunError,
    RecordError,
    ScenarioFileError,
    UsageError,
)
from harness.image.definition import load_definitions
from harness.record.results_directory import check_default_base
from harness.run.host_paths import check_host_paths
from harness.run.plan import choose_images
from harness.safe_text import safe_text
from harness.scenario.model import Scenario
from harness.scenario.selection import find_scenarios


def execute(options: argparse.Namespace) -> int:
    """Build, run, and return what `git bisect run` understands."""
    try:
        wanted, scenarios = _plan(options)
    except (UsageError, ScenarioFileError, RecordError) as error:
        return _say(STOP, "stop", str(error))
    try:
        if options.build is not None:
            run_build(options.build)
        check_paths(options)
        runs = run_until_decided(options, scenarios, wanted)
    except (InterruptedRunError, RecordError) as error:
        return _say(STOP, "stop", str(error))
    except KeyboardInterrupt:
        return _say(STOP, "stop", "interrupted")
    except (BuildFailedError, HarnessError) as error:
        # A tree that was not built, modules of another version: it may be so for this commit alone.
        return _say(SKIP, "skip", str(error))
    found = answer(runs, wanted)
    return _say(found.status, found.word, found.why)


def _plan(options: argparse.Namespace) -> tuple[int, Sequence[Scenario]]:
    """Return how many runs must pass, and the scenario.

    Refuses everything that would be wrong for any commit. Raises `UsageError`,
    `ScenarioFileError`, and `RecordError` if results cannot be written.
    """
    options.repeat = runs_wanted(options)
    check_run_options(options, paths=False)
    directory = scenarios_directory(options)
    scenarios = find_scenarios([options.scenario], VERBS, options.overrides, directory, tags=[])
    if len(scenarios) > 1:
        raise UsageError(
            f"{options.scenario} is {len(scenarios)} scenarios, and a step runs one",
            hint=f"name one of {', '.join(scenario.name for scenario in scenarios)}",
        )
    refuse_for_any_build(options, scenarios)
    if len(choose_images(load_definitions(), options.image)) > 1:
        raise UsageError("--image names several images; a step runs on one")
    check_host_paths(None, scenarios)
    check_default_base()
    return options.repeat, scenarios


def _say(status: int, word: str, why: str) -> int:
    print(f"bisect-step: {word}: {safe_text(why)}", file=sys.stderr)
    return status
