# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness bisect-releases`: between which two of an archive's builds a scenario turned."""

import argparse
import sys
from collections.abc import Sequence

from harness.act.discover import VERBS
from harness.cli.bisect_rule import GOOD, STOP, answer
from harness.cli.bisect_runs import refuse_for_any_build, run_until_decided, runs_wanted
from harness.cli.bisect_search import Boundary, Word, search
from harness.cli.options import check_run_options, scenarios_directory
from harness.errors import UNAVAILABLE, HarnessError, InterruptedRunError, RecordError, UsageError
from harness.image.definition import ImageDefinition, load_definitions
from harness.image.kernel_builds import (
    KernelBuild,
    in_series,
    oldest_first,
    series_of,
    shortest_name,
)
from harness.image.sources import Archive
from harness.record.results_directory import check_default_base
from harness.run.plan import choose_images
from harness.safe_text import safe_text
from harness.scenario.model import Scenario
from harness.scenario.selection import find_scenarios

NO_BOUNDARY = 1


def execute(options: argparse.Namespace) -> int:
    """Search, and return 0 if a boundary was found, 1 if there is none, 69 if none can be told.

    Raises `UsageError`, `ScenarioFileError`, `ImageError`, `RecordError`.
    """
    wanted = runs_wanted(options)
    check_run_options(options)
    directory = scenarios_directory(options)
    scenarios = find_scenarios([options.scenario], VERBS, options.overrides, directory)
    if len(scenarios) > 1:
        raise UsageError(
            f"{options.scenario} is {len(scenarios)} scenarios, and a search runs one",
            hint=f"name one of {', '.join(scenario.name for scenario in scenarios)}",
        )
    refuse_for_any_build(options, scenarios)
    if options.kernel is not None:
        raise UsageError("--kernel is one kernel, and a search chooses its own")
    check_default_base()
    image, builds, every = _builds(options)
    words = [f"{image.name}={shortest_name(build, every)}" for build in builds]
    _tell(f"{len(builds)} builds, {builds[0].version} to {builds[-1].version}")

    def judge(place: int) -> Word:
        options.image = [words[place]]
        found = _ask(options, scenarios, wanted)
        _tell(f"{words[place]}: {found[0]}: {found[1]}")
        return found[0]

    return _conclude(search(len(builds), judge), builds, words)


def _builds(
    options: argparse.Namespace,
) -> tuple[ImageDefinition, list[KernelBuild], list[KernelBuild]]:
    """Return the image, the builds to search, oldest first, and all there are to tell them by.

    Raises `UsageError` if there are fewer than two.
    """
    images = choose_images(load_definitions(), options.image)
    if len(images) > 1 or images[0].kernel.version is not None:
        raise UsageError("--image names the suite to search, as in --image trixie")
    image = images[0]
    every = [
        build
        for build in oldest_first(Archive(image, options.refresh, _tell).builds())
        if not build.missing
    ]
    series = options.series or series_of(image.kernel.suite, every)
    builds = in_series(every, series)
    if len(builds) < 2:
        raise UsageError(
            f"the archive holds {len(builds)} builds of {series} for {image.name}",
            hint=f"`fpr-harness image list --builds --image {image.name}` lists what it holds",
        )
    return image, builds, every


def _ask(
    options: argparse.Namespace, scenarios: Sequence[Scenario], wanted: int
) -> tuple[Word, str]:
    """Run the scenario on one build. Raises `InterruptedRunError`, `RecordError`."""
    try:
        found = answer(run_until_decided(options, scenarios, wanted), wanted)
    except (InterruptedRunError, RecordError):
        raise
    except HarnessError as error:
        return "skip", error.message
    if found.status == STOP:
        raise InterruptedRunError(found.why, hint="the same command begins anew")
    if found.word == "skip":
        return "skip", found.why
    return ("good" if found.status == GOOD else "bad"), found.why


def _conclude(found: Boundary | Word, builds: Sequence[KernelBuild], words: Sequence[str]) -> int:
    """Print what was found on standard output; return the exit status."""
    if isinstance(found, Boundary):
        what = "fixed" if found.turned == "good" else "broken"
        before, after = (builds[place].version for place in (found.before, found.after))
        skipped = found.after - found.before - 1
        between = f"; {skipped} builds between them say nothing" if skipped else ""
        print(f"{what} between {before} and {after}{between}")
        print(f"  {words[found.before]} is {'bad' if what == 'fixed' else 'good'}")
        print(f"  {words[found.after]} is {found.turned}")
        return 0
    if found == "skip":
        print("too few builds say anything: see the results of each")
        return UNAVAILABLE
    print(f"both ends are {found}: {builds[0].version} and {builds[-1].version}")
    return NO_BOUNDARY


def _tell(text: str) -> None:
    print(f"... {safe_text(text)}", file=sys.stderr, flush=True)
