# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness export`: print recorded runs in a format that other programs read."""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.record.reader import RESULTS_NAME
from harness.record.results_directory import write_whole
from harness.report.exported import ExportedRun, collect
from harness.report.github import annotations, step_summary
from harness.report.kcidb import as_kcidb
from harness.report.ktap import as_ktap
from harness.report.prometheus import as_prometheus
from harness.report.summary import Summary
from harness.report.tmt import as_tmt

_ORIGIN = re.compile(r"[a-z0-9_]+")
"""`origin` of the schema."""


def execute(options: argparse.Namespace) -> int:
    """Print the runs, or write them to a file; returns 0. Raises `UsageError`, `RecordError`."""
    if options.format == "kcidb" and not _ORIGIN.fullmatch(options.origin or ""):
        raise UsageError(
            "--format kcidb needs --origin, the name of the CI system in KCIDB",
            hint="lower-case letters, digits and `_`, as agreed with KernelCI",
        )
    if options.output is not None and options.output.name == RESULTS_NAME:
        raise UsageError(f"--output {options.output} would replace a record")
    runs = collect(options.directories)
    text = _WRITERS[options.format](runs, options)
    if options.output is None:
        print(text, end="")
    else:
        write_whole(Path(os.path.realpath(options.output)), text.encode())
    return 0


def _summary(runs: Sequence[ExportedRun]) -> Summary:
    return Summary(tuple(run.summary for run in runs))


_WRITERS: Mapping[str, Callable[[Sequence[ExportedRun], argparse.Namespace], str]] = {
    "ktap": lambda runs, _options: as_ktap(runs),
    "prometheus": lambda runs, _options: as_prometheus(runs),
    "tmt": lambda runs, _options: as_tmt(runs),
    "kcidb": lambda runs, options: as_kcidb(runs, options.origin),
    "github": lambda runs, _options: annotations([run.summary for run in runs]),
    "markdown": lambda runs, _options: step_summary(_summary(runs)),
}
