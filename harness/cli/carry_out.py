# SPDX-License-Identifier: Apache-2.0
"""Runs chosen scenarios as the command line says: what `run` and `bisect-step` have in common."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cli.options import run_options
from harness.errors import HarnessError
from harness.image.build import BootFiles
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.machine.qemu import Qemu
from harness.record.events import Event, Judged
from harness.record.facts import Verdict
from harness.record.results_directory import make_results_directory
from harness.report.github import commands_stopped, tell_github
from harness.report.past_runs import history_for
from harness.report.sink import LastingSink
from harness.report.summary import Summary
from harness.report.terminal import ProgressView, print_table
from harness.run.host_paths import check_host_paths
from harness.run.invocation import Conclusion, conclude, prepare_images, run_pool
from harness.run.plan import (
    PlannedRun,
    RunOptions,
    choose_images,
    longest_first,
    plan_runs,
    refuse_clock,
)
from harness.run.qemus import choose_qemus, prepare_qemus, refuse_if_none
from harness.run.shards import Shard, runs_of_shard
from harness.run.stop_request import StopRequest, stopping_on_signals
from harness.safe_text import safe_text
from harness.scenario.model import Scenario
from harness.scenario.permission import refuse_unallowed

Boots = Mapping[str, BootFiles | HarnessError]


@dataclass(frozen=True)
class CarriedOut:
    """What an invocation ran, on what, and how it ended."""

    ended: Conclusion
    results: Path
    boots: Boots
    qemus: Mapping[str, Qemu | HarnessError]

    @property
    def summary(self) -> Summary:
        return self.ended.summary

    @property
    def status(self) -> int:
        return self.ended.status


def carry_out(
    options: argparse.Namespace,
    scenarios: Sequence[Scenario],
    *,
    until_fail: bool = False,
    remembers: bool = False,
) -> CarriedOut:
    """Run the scenarios, show progress and the table, write the results, tell GitHub Actions.

    `until_fail`: the first FAIL ends the other runs. `remembers`: the runs go into the history.
    Raises `HarnessError` where nothing can run.
    """
    chosen = run_options(options)
    refuse_clock(scenarios, chosen.clock)
    images = choose_images(load_definitions(), options.image)
    choices = choose_qemus(load_qemus(), options.qemu)
    runs = plan_runs(scenarios, images, options.repeat, choices)
    if chosen.shard:
        runs = runs_of_shard(runs, Shard.parse(chosen.shard))
    return perform(
        options,
        chosen,
        runs,
        lambda _results, note: prepare_images(images, chosen, note),
        until_fail=until_fail,
        remembers=remembers,
    )


def perform(
    options: argparse.Namespace,
    chosen: RunOptions,
    runs: Sequence[PlannedRun],
    boots_for: Callable[[Path, Callable[[str], None]], Boots],
    *,
    until_fail: bool = False,
    remembers: bool = False,
    alone: bool = False,
) -> CarriedOut:
    """Do planned runs like `carry_out`; `boots_for` makes their images, given the results
    directory and where to tell of progress. `alone`: each run has the host for itself."""
    scenarios = [run.scenario for run in runs]
    refuse_unallowed(scenarios, options.allow_qmp, qemu_args=options.allow_qemu_args)
    check_host_paths(options.results, scenarios)
    output = LastingSink(sys.stdout)
    with commands_stopped(output):
        results, boots, qemus = _perform(
            options, chosen, runs, boots_for, output, until_fail=until_fail, alone=alone
        )
        history = None
        if remembers:
            history = history_for(results, explicit=options.results, asked=options.history)
        ended = conclude(results, lambda summary: print_table(summary, results, output), history)
        for trouble in ended.troubles:
            print(f"fpr-harness: {trouble}", file=sys.stderr)
        for trouble in ended.notes:
            print(f"note: {safe_text(str(trouble))}", file=sys.stderr)
    try:
        tell_github(ended.summary, output)
    except OSError as error:
        print(f"note: no summary of this step: {error}", file=sys.stderr)
    return CarriedOut(ended, results, boots, qemus)


def _perform(
    options: argparse.Namespace,
    chosen: RunOptions,
    runs: Sequence[PlannedRun],
    boots_for: Callable[[Path, Callable[[str], None]], Boots],
    output: LastingSink,
    *,
    until_fail: bool,
    alone: bool,
) -> tuple[Path, Boots, Mapping[str, Qemu | HarnessError]]:
    request = StopRequest()
    expected = {run.run_id: run.scenario.expected_seconds for run in longest_first(runs)}

    def stop_on_fail(_run_id: str, event: Event) -> None:
        # Once: a second stop would not wait for the guests to end.
        if isinstance(event, Judged) and event.verdict is Verdict.FAIL and not request.made:
            request.stop()

    with (
        ProgressView(len(runs), output, expected=expected, quiet=options.quiet) as view,
        stopping_on_signals(request, then=lambda: view.note("stopping: ending the guests")),
    ):
        choices = {run.qemu.name: run.qemu for run in runs}
        qemus = prepare_qemus(choices.values(), view.note)
        refuse_if_none(qemus)
        results = make_results_directory(options.results)
        boots = boots_for(results, view.note)
        observers = [view.feed, stop_on_fail] if until_fail else [view.feed]
        with run_pool(
            results,
            chosen,
            boots,
            qemus,
            options.jobs,
            observers,
            request,
            view.note,
            alone=alone,
        ) as pool:
            for future in [pool.submit(run) for run in longest_first(runs)]:
                future.result()
    return results, boots, qemus
