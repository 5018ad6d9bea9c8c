# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness run`: run scenarios, and show their verdicts in a table."""

import argparse
import sys

from harness.act.discover import VERBS
from harness.cli.options import check_run_options, run_options, scenarios_directory
from harness.errors import UsageError
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.record.results_directory import make_results_directory
from harness.report.sink import LastingSink
from harness.report.terminal import ProgressView, print_table
from harness.run.host_paths import check_host_paths
from harness.run.invocation import conclude, prepare_images, run_pool, stopping_on_signals
from harness.run.plan import choose_images, longest_first, plan_runs
from harness.run.qemus import choose_qemus, prepare_qemus, refuse_if_none
from harness.scenario.load import find_scenarios
from harness.scenario.permission import refuse_unallowed


def execute(options: argparse.Namespace) -> int:
    """Run, judge and report; returns the exit status of the verdicts (0, 1, 69 or 77).

    Raises `UsageError`, `ScenarioFileError`, `RecordError`.
    """
    check_run_options(options)
    if options.scenarios and options.tag:
        raise UsageError("scenarios and --tag cannot be given together")
    chosen = run_options(options)
    scenarios = find_scenarios(
        options.scenarios,
        VERBS,
        options.overrides,
        scenarios_directory(options),
        tags=options.tag,
    )
    refuse_unallowed(scenarios, options.allow_qmp, qemu_args=options.allow_qemu_args)
    check_host_paths(options.results, scenarios)
    images = choose_images(load_definitions(), options.image)
    choices = choose_qemus(load_qemus(), options.qemu)
    runs = plan_runs(scenarios, images, options.repeat, choices)
    output = LastingSink(sys.stdout)
    with ProgressView(total=len(runs), file=output) as view:
        qemus = prepare_qemus(choices, view.note)
        refuse_if_none(qemus)
        results = make_results_directory(options.results)
        boots = prepare_images(images, chosen, view.note)
        with (
            run_pool(results, chosen, boots, qemus, options.jobs, [view.feed]) as pool,
            stopping_on_signals(pool, then=lambda: view.note("stopping: ending the guests")),
        ):
            for future in [pool.submit(run) for run in longest_first(runs)]:
                future.result()
    ended = conclude(results, lambda summary: print_table(summary, results, output))
    for trouble in ended.troubles:
        print(f"fpr-harness: {trouble}", file=sys.stderr)
    if ended.no_report is not None:
        print(f"note: no report.html: {ended.no_report}", file=sys.stderr)
    return ended.status
