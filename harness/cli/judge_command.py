# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness judge`: judge recorded runs again from their files, without a VM."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RecordError, UsageError
from harness.record.asked import Asked
from harness.record.events import Audited, Event, Judged, StepsDone
from harness.record.older_results import asked_of
from harness.record.reaudit import audit_again
from harness.record.recorded_run import RecordedRun, read_runs
from harness.report.sink import LastingSink
from harness.report.summary import RunSummary, build_summary, status_of
from harness.report.terminal import print_table
from harness.scenario.expectations import unknown_names
from harness.verdict.rejudge import Terms, judge_again, parse_expectation

if TYPE_CHECKING:
    from harness.scenario.model import Scenario

OLDER = (
    "results of schema 1: audits are judged by their recorded reports, since their files lack some "
    "of the inputs of these reports"
)


def execute(options: argparse.Namespace) -> int:
    """Judge every run of the directories and print the verdicts as `run` does.

    Returns the exit status of the verdicts (0, 1, 69 or 77). Raises `UsageError`,
    `ScenarioFileError`, `RecordError`.
    """
    # Read all directories first, so that an error in the last one does not follow a table.
    recorded = [(directory, read_runs(directory)) for directory in options.directories]
    runs = [run for _directory, found in recorded for run in found]
    others = _other_terms(options.scenario, runs) if options.scenario is not None else {}
    expected = _expected(options.expect, runs)
    terms = {id(run): _terms(run, others, expected) for run in runs}
    output = LastingSink(sys.stdout)
    counted: list[RunSummary] = []
    for directory, found in recorded:
        lines: list[tuple[str, Event]] = []
        remarks: list[str] = []
        for run in found:
            events, judged, said = _judge(run, terms[id(run)])
            lines += [(run.run_id, event) for event in (*events, judged)]
            remarks += [f"{run.run_id}: {text}" for text in said]
        if any(run.started.schema == 1 for run in found):
            remarks.append(OLDER)
        summary = build_summary(lines)
        counted += summary.runs
        print_table(summary, directory, output)
        for remark in remarks:
            print(f"note: {remark}", file=output)
    return status_of(counted)


def _judge(run: RecordedRun, terms: Terms) -> tuple[Sequence[Event], Judged, list[str]]:
    """Judge a run; returns the events judged, the verdict, and remarks on it."""
    events, remarks = run.events, list[str]()
    if run.started.schema > 1:
        events, remarks = audit_again(events, run.directory)
    judged = judge_again(run, events, terms)
    before = run.judged
    if before is not None and (before.verdict, before.cause) != (judged.verdict, judged.cause):
        remarks.append(f"judged as {_word(judged)}, recorded as {_word(before)}")
    return events, judged, remarks


def _word(judged: Judged) -> str:
    return f"{judged.verdict} {judged.cause}" if judged.cause else judged.verdict


def _terms(run: RecordedRun, others: Mapping[str, Terms], expected: Mapping[str, str]) -> Terms:
    """Return what the run is judged by. Raises `RecordError` if that is not known."""
    terms = others.get(run.started.scenario) or Terms(_asked(run))
    asked = replace(terms.asked, expect={**terms.asked.expect, **expected})
    return replace(terms, asked=asked)


def _asked(run: RecordedRun) -> Asked:
    if run.started.plan is not None:
        return run.started.plan.asked
    asked = asked_of(run.directory)
    if asked is not None:
        return asked
    # A run that broke or ended early is not judged by its expectations.
    if not any(isinstance(event, StepsDone) for event in run.events):
        return Asked()
    raise RecordError(
        f"the expectations of run {run.run_id} are neither in its results nor in its repro.sh",
        hint="give them with --scenario FILE",
        evidence=[run.directory],
    )


def _other_terms(path: Path, runs: Sequence[RecordedRun]) -> dict[str, Terms]:
    """Return the terms of a file's scenarios, by the name of the scenario that was run.

    A run whose scenario is not in the file keeps its own terms. If the file has one scenario and
    all runs are of one scenario, the names may differ. Raises `UsageError` if none match.
    """
    # Imported here, because importing all verbs takes longer than judging a run.
    from harness.act.discover import VERBS
    from harness.scenario.load import load_scenarios

    found = {scenario.name: _asked_by(scenario) for scenario in load_scenarios(path, VERBS)}
    names = dict.fromkeys(run.started.scenario for run in runs)
    if not found.keys() & names.keys():
        if len(found) == len(names) == 1:
            return dict(zip(names, found.values(), strict=True))
        raise UsageError(
            f"{path} has none of the scenarios that were run; it has: {', '.join(found)}",
            hint=f"the runs are of: {', '.join(names) or 'none'}",
        )
    return found


def _asked_by(scenario: "Scenario") -> Terms:
    checks: dict[str, list[tuple[str, ...]]] = {}
    for _loc, step in scenario.single_steps:
        if step.audit_name is not None:
            those = tuple(f"{measure}: {text}" for measure, text in step.checks.items())
            checks.setdefault(step.audit_name, []).append(those)
    return Terms(scenario.asked, checks)


def _expected(texts: Iterable[str], runs: Sequence[RecordedRun]) -> dict[str, str]:
    """Return the conditions of `--expect` by measure. Raises `UsageError`."""
    found: dict[str, str] = {}
    for text in texts:
        try:
            name, condition = parse_expectation(text)
        except ValueError as error:
            raise UsageError(f"--expect {text!r}: {error}") from error
        if name in found:
            raise UsageError(f"--expect {text!r}: {name} already has a condition")
        found[name] = condition
    plans = [run.started.plan for run in runs]
    measured = frozenset[str]().union(*(plan.asked.measured for plan in plans if plan is not None))
    audits = {e.name for run in runs for e in run.events if isinstance(e, Audited)}
    for name, wrong in unknown_names(found, measured, audits):
        raise UsageError(f"--expect {name!r}: {wrong}")
    return found
