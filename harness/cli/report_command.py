# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness report`: write one HTML page of recorded runs, from their files, without a VM."""

import argparse
from pathlib import Path

from harness.errors import UsageError
from harness.report.html.document import REPORT_NAME, write_report


def execute(options: argparse.Namespace) -> int:
    """Write the page and print its path; returns 0. Raises `UsageError`, `RecordError`."""
    if options.output is None and len(options.directories) > 1:
        raise UsageError(
            f"the report of {len(options.directories)} directories needs a file to write to",
            hint="name it with --output FILE",
        )
    path: Path = options.output or options.directories[0] / REPORT_NAME
    write_report(options.directories, path)
    print(path)
    return 0
