# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness report`: write one HTML page of recorded runs, from their files, without a VM."""

import argparse
from pathlib import Path

from harness.errors import UsageError
from harness.html.document import REPORT_NAME, write_report
from harness.record.reader import RESULTS_NAME
from harness.record.run_history import HISTORY_NAME


def execute(options: argparse.Namespace) -> int:
    """Write the page and print its path; returns 0. Raises `UsageError`, `RecordError`."""
    if options.output is None and len(options.directories) > 1:
        raise UsageError(
            f"the report of {len(options.directories)} directories needs a file to write to",
            hint="name it with --output FILE",
        )
    # A directory that is named twice, or by a link, is shown once.
    directories = list({path.resolve(): path for path in reversed(options.directories)}.values())
    path: Path = options.output or options.directories[0] / REPORT_NAME
    if options.output is not None:
        _check_output(path)
    history: Path | None = options.history
    if history is None:
        beside = directories[-1].resolve().parent / HISTORY_NAME
        history = beside if beside.exists() else None
    elif not history.exists():
        raise UsageError(f"there is no history {history}")
    write_report(directories[::-1], path, history)
    print(path)
    return 0


def _check_output(path: Path) -> None:
    """Raise `UsageError` if no page can be at `path`, or a record is there."""
    if path.is_dir():
        raise UsageError(
            f"--output {path} is a directory", hint=f"name a file, such as {path / REPORT_NAME}"
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no directory {path.parent}", hint="create it, or name a file elsewhere"
        )
    if path.name == RESULTS_NAME:
        raise UsageError(
            f"--output {path} would replace a record",
            hint=f"name another file, such as {path.with_name(REPORT_NAME)}",
        )
