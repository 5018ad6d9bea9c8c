# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness compare`: two kernels, images, QEMUs, settings or results, and what differs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.act.discover import VERBS
from harness.cli.compare_sides import SideWord, parse_side
from harness.cli.options import check_run_options, run_options, scenarios_directory
from harness.compare.comparison import LOOKED, Comparison, compare
from harness.compare.table import print_comparison
from harness.errors import UNAVAILABLE, HarnessError, UsageError
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.record.reader import RESULTS_NAME, read_events
from harness.record.results_directory import make_results_directory
from harness.record.sides import PLAN_NAME, side_of
from harness.report.sink import LastingSink
from harness.report.summary import RunSummary, Summary, build_summary
from harness.report.terminal import ProgressView, print_table
from harness.run.host_paths import check_host_paths
from harness.run.interleaved import (
    Side,
    check_plan,
    run_in_turn,
    runs_left,
    write_plan,
)
from harness.run.invocation import conclude, prepare_images
from harness.run.plan import choose_images
from harness.run.qemus import choose_one_qemu, prepare_qemu
from harness.run.stop_request import StopRequest, stopping_on_signals
from harness.scenario.permission import refuse_unallowed
from harness.scenario.selection import find_scenarios

DIFFERS = 1


def execute(options: argparse.Namespace) -> int:
    """Compare; returns 0 if nothing differs, 1 if something does, 69 if that cannot be told.

    Raises `UsageError`, `ScenarioFileError`, `RecordError`, and whatever keeps a side from running.
    """
    words = parse_side("A", options.a), parse_side("B", options.b)
    recorded = [word for word in words if word.kind == "results"]
    if len(recorded) == 1:
        raise UsageError(
            f"{recorded[0].value} holds results, and the other side is to be run",
            hint="compare two results directories, or two things to run",
        )
    if recorded:
        runs = [_recorded(word, options.scenarios) for word in words]
        return _tell(runs[0], runs[1], options.measure, LastingSink(sys.stdout))
    return _run(options, words)


def _recorded(word: SideWord, scenarios: Sequence[str]) -> list[RunSummary]:
    """Read the runs of a results directory. Raises `UsageError` if they are no one side."""
    results = Path(word.value)
    runs = build_summary(read_events(results / RESULTS_NAME)).runs
    found = [run for run in runs if not scenarios or run.scenario in scenarios]
    if any(side_of(run.run_id) for run in found):
        raise UsageError(
            f"{results} holds both sides of a comparison",
            hint="name the results of `fpr-harness run`",
        )
    for name in {run.scenario for run in found}:
        kinds = {(run.image, run.qemu_name) for run in found if run.scenario == name}
        if len(kinds) > 1:
            raise UsageError(
                f"{results} has runs of {name} on several images or QEMUs, which are no one side",
                hint="compare results of one image and one QEMU",
            )
    return found


def _run(options: argparse.Namespace, words: Sequence[SideWord]) -> int:
    if not options.scenarios:
        raise UsageError(
            "no scenario is named", hint="name what to run with A and with B, as in reclaim-basic"
        )
    if words[0].kind == words[1].kind and words[0].value == words[1].value:
        print("note: A and B are the same: this shows how often something seems to differ")
    output = LastingSink(sys.stdout)
    request = StopRequest()
    going_on = options.results is not None and (options.results / PLAN_NAME).exists()
    with (
        ProgressView(file=output, quiet=options.quiet) as view,
        stopping_on_signals(request, then=lambda: view.note("stopping: ending the guest")),
    ):
        sides = [_side(options, word, view) for word in words]
        _check_alike(sides)
        if going_on:
            results: Path = options.results
            check_plan(results, sides)
        else:
            results = make_results_directory(options.results)
            write_plan(results, sides)
        there = build_summary(read_events(results / RESULTS_NAME)).runs
        left = runs_left(sides, options.repeat, there)
        view.note(f"{len(left)} runs, in turn with A and B; results in {results}")
        run_in_turn(results, left, [view.feed], request, view.note)
    status = UNAVAILABLE

    def show(summary: Summary) -> None:
        nonlocal status
        status = _show(summary, results, options.measure, output)

    ended = conclude(results, show)
    for trouble in ended.troubles:
        print(f"fpr-harness: {trouble}", file=sys.stderr)
    print(f"evidence in {results}", file=output)
    if request.made:
        print(
            f"fpr-harness: interrupted; the same command with --results {results} goes on",
            file=sys.stderr,
        )
    return UNAVAILABLE if request.made or ended.troubles else status


def _side(options: argparse.Namespace, word: SideWord, view: ProgressView) -> Side:
    """Make a side ready to run. Raises what keeps it from running."""
    own = word.apply(options)
    check_run_options(own)
    scenarios = find_scenarios(own.scenarios, VERBS, own.overrides, scenarios_directory(own))
    refuse_unallowed(scenarios, own.allow_qmp, qemu_args=own.allow_qemu_args)
    check_host_paths(own.results, scenarios)
    images = choose_images(load_definitions(), own.image)
    if len(images) > 1:
        raise UsageError(f"side {word.label} names several images; a side is one")
    choice = choose_one_qemu(load_qemus(), own.qemu)
    chosen = run_options(own)
    (boot,) = prepare_images(images, chosen, view.note).values()
    if isinstance(boot, HarnessError):
        raise boot
    qemu = prepare_qemu(choice, view.note)
    named = getattr(own, word.label.lower())
    return Side(word.label, named, chosen, tuple(scenarios), images[0], choice, boot, qemu)


def _check_alike(sides: Sequence[Side]) -> None:
    names = [[scenario.name for scenario in side.scenarios] for side in sides]
    if names[0] != names[1]:
        raise UsageError("A and B run different scenarios: a setting changes their names")


def _show(summary: Summary, results: Path, only: Sequence[str], output: LastingSink) -> int:
    """Show what broke, then what differs; returns the exit status."""
    broken = tuple(run for run in summary.runs if run.verdict not in LOOKED)
    if broken:
        print_table(Summary(broken), results, output)
    sides = [[run for run in summary.runs if side_of(run.run_id) == label] for label in "AB"]
    return _tell(sides[0], sides[1], only, output)


def _tell(
    a: Sequence[RunSummary], b: Sequence[RunSummary], only: Sequence[str], output: LastingSink
) -> int:
    """Print the comparison and return its exit status. Raises `UsageError`."""
    found = compare(a, b, only)
    if not found.verdicts:
        raise UsageError("A and B have no scenario in common: there is nothing to compare")
    missing = set(only) - {each.measure for each in found.measures}
    if missing:
        raise UsageError(f"no run took {', '.join(sorted(missing))}", hint="see --measure")
    print_comparison(found, output)
    return _status(found)


def _status(found: Comparison) -> int:
    if found.differs:
        return DIFFERS
    return 0 if found.enough else UNAVAILABLE
