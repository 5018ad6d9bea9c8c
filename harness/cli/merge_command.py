# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness merge`: the results of several machines as those of one invocation."""

import argparse
import sys

from harness.errors import UNAVAILABLE
from harness.record.merging import merge_parts, missing_shards, new_names, read_parts
from harness.record.reader import RESULTS_NAME, read_events
from harness.record.results_directory import make_results_directory
from harness.report.junit import write_junit
from harness.report.sink import LastingSink
from harness.report.summary import build_summary, status_of, write_summary
from harness.report.terminal import print_table
from harness.safe_text import safe_text

FAILED = 1


def execute(options: argparse.Namespace) -> int:
    """Merge, print the table, and return the exit status of all verdicts.

    69 if a shard is missing, or a directory holds no run, and nothing failed. Raises `UsageError`,
    `RecordError`.
    """
    parts = read_parts(options.directories)
    results = make_results_directory(options.results)
    merge_parts(parts, new_names(parts), results)
    events = list(read_events(results / RESULTS_NAME))
    summary = build_summary(events)
    write_summary(summary, results / "summary.json")
    write_junit(events, results / "junit.xml")
    print_table(summary, results, LastingSink(sys.stdout))
    status = status_of(summary.runs)
    lacking = [f"no results of shard {name}" for name in missing_shards(parts)]
    lacking += [f"no run in {part.directory}" for part in parts if not part.runs]
    for what in lacking:
        told = safe_text(f"{what}: what it was to run is unknown")
        print(f"fpr-harness: {told}", file=sys.stderr)
    return UNAVAILABLE if lacking and status != FAILED else status
