# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness mail`: a failed run as a mail to a kernel list."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml

from harness.act.discover import VERBS
from harness.compare.series_mail import Sides, compose_series
from harness.errors import ScenarioFileError, UsageError
from harness.record.facts import Verdict
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.sides import PLAN_NAME, side_of, side_words
from harness.report.exported import ExportedRun, collect
from harness.report.mail import Case, alike, compose
from harness.report.scenario_words import guest_words
from harness.report.sink import LastingSink
from harness.report.summary import build_summary
from harness.scenario.load import load_scenarios
from harness.scenario.model import Scenario


def execute(options: argparse.Namespace) -> int:
    """Print the mail, or a comparison's table; returns 0. Raises `UsageError`, `RecordError`."""
    if options.run is None and (options.directory / PLAN_NAME).exists():
        LastingSink(sys.stdout).write(_series(options.directory))
        return 0
    facts = collect([options.directory])
    runs = read_runs(options.directory)
    run, chosen = _choose(list(zip(runs, facts, strict=True)), options.run, options.directory)
    scenario = _scenario(run)
    plain = run.started.plan.scenario if run.started.plan is not None else {}
    told = plain.get("steps")
    steps = [json.dumps(step) for step in told] if isinstance(told, list) else []
    failed, judged = alike(facts, chosen)
    case = Case(
        run,
        chosen,
        steps=[step.in_words() for step in scenario.steps] if scenario is not None else steps,
        guest=guest_words(scenario) if scenario is not None else json.dumps(plain.get("guest", {})),
        failed=failed,
        judged=judged,
    )
    LastingSink(sys.stdout).write(compose(case))
    return 0


def _series(directory: Path) -> str:
    """The table under a patch series, from a comparison's results. Raises `UsageError`."""
    runs = read_runs(directory)
    summaries = build_summary(
        (run.run_id, event)
        for run in runs
        for event in (*run.events, *([run.judged] if run.judged is not None else []))
    ).runs
    a, b = ([run for run in summaries if side_of(run.run_id) == label] for label in "AB")
    named = side_words(directory)
    host = runs[0].started.host if runs else {}
    sides = Sides(
        named.get("A", "A"),
        named.get("B", "B"),
        f"Linux {host.get('kernel', '?')}, {host.get('machine', '?')}",
    )
    try:
        return compose_series(sides, a, b)
    except ValueError as error:
        raise UsageError(
            f"{directory}: {error}", hint="let `fpr-harness compare` go on with --results"
        ) from error


def _choose(
    runs: list[tuple[RecordedRun, ExportedRun]], name: str | None, directory: Path
) -> tuple[RecordedRun, ExportedRun]:
    """Return the run of that name, or the first that failed. Raises `UsageError`."""
    failed = [each for each in runs if each[1].summary.verdict is Verdict.FAIL]
    if name is not None:
        failed = [each for each in runs if each[0].run_id == name]
        if not failed:
            raise UsageError(
                f"{directory} has no run called {name}",
                hint=f"it has {', '.join(run.run_id for run, _facts in runs)}",
            )
    if not failed:
        raise UsageError(
            f"no run in {directory} failed: there is nothing to report",
            hint="a run that broke (MISS, ERROR) says nothing of the kernel",
        )
    return failed[0]


def _scenario(run: RecordedRun) -> Scenario | None:
    """The scenario as it was run; None if this version cannot read it."""
    if run.started.plan is None:
        return None
    with tempfile.TemporaryDirectory(prefix="fpr-mail-") as directory:
        path = Path(directory) / f"{run.started.scenario}.yaml"
        path.write_text(yaml.safe_dump(run.started.plan.scenario), encoding="utf-8")
        try:
            return load_scenarios(path, VERBS)[0]
        except ScenarioFileError:
            return None
