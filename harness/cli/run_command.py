# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness run`: run scenarios, and show their verdicts in a table."""

import argparse
import sys
from pathlib import Path

from harness.act.discover import VERBS
from harness.cli.carry_out import CarriedOut, carry_out
from harness.cli.options import check_run_options, scenarios_directory
from harness.errors import UNAVAILABLE, RecordError, UsageError
from harness.image.build_tree import describe, is_build_tree, tree_of
from harness.record.bundle_write import check_target
from harness.run.bundling import bundle
from harness.run.invocation import FAILED
from harness.scenario.selection import find_scenarios


def execute(options: argparse.Namespace) -> int:
    """Run, judge and report; returns the exit status of the verdicts (0, 1, 69 or 77).

    Raises `UsageError`, `ScenarioFileError`, `RecordError`.
    """
    check_run_options(options)
    if options.scenarios and options.tag:
        raise UsageError("scenarios and --tag cannot be given together")
    if options.with_kernel and options.bundle is None:
        raise UsageError("--with-kernel needs --bundle", hint="name the file to make")
    if options.bundle is not None:
        check_target(options.bundle)
    scenarios = find_scenarios(
        options.scenarios,
        VERBS,
        options.overrides,
        scenarios_directory(options),
        tags=options.tag,
    )
    done = carry_out(options, scenarios, remembers=True)
    if options.bundle is None:
        return done.status
    return _bundled(options, done)


def _bundled(options: argparse.Namespace, done: CarriedOut) -> int:
    """Bundle the results; returns the exit status, which a bundle that failed changes."""
    kernel: Path | None = options.kernel
    tree = None
    if kernel is not None:
        tree = kernel if is_build_tree(kernel) else tree_of(kernel)
    commit = describe(tree) if tree is not None else None
    try:
        bundle(
            options.bundle,
            done.results,
            done.boots,
            done.qemus,
            commit=commit,
            with_kernel=options.with_kernel,
        )
    except RecordError as error:
        print(f"fpr-harness: {error}", file=sys.stderr)
        return done.status if done.status == FAILED else UNAVAILABLE
    print(
        f"bundle: {options.bundle}; to run it elsewhere: fpr-harness replay {options.bundle.name}"
    )
    return done.status
