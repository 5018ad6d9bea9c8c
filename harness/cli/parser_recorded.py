# SPDX-License-Identifier: Apache-2.0
"""The parsers of the commands that read results directories, or what was kept of many."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import declare_history_option

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXPORT_FORMATS = {
    "ktap": "the kernel's test protocol, with every expectation",
    "prometheus": "metrics of the latest run of each scenario, for the textfile collector",
    "kcidb": "a report for the database of KernelCI",
    "tmt": "the results.yaml of a tmt test with custom results",
    "github": "workflow commands that annotate a GitHub job",
    "markdown": "the table that a GitHub job shows as its summary",
}


def add_recorded_commands(commands: "Commands") -> None:
    """Add `judge`, `report`, `export`, `merge` and `trend`."""
    _add_judge(commands)
    _add_report(commands)
    _add_export(commands)
    _add_merge(commands)
    _add_trend(commands)


def _add_judge(commands: "Commands") -> None:
    judge = commands.add_parser(
        "judge", help="judge recorded runs again from their files, without a VM"
    )
    _add_directories(judge)
    judge.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="judge by the expectations of this file instead of the recorded ones",
    )
    judge.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="NAME=CONDITION",
        help="add an expectation, or replace the one for the measure NAME",
    )


def _add_directories(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="a results directory"
    )


def _add_report(commands: "Commands") -> None:
    report = commands.add_parser("report", help="write one HTML page of recorded runs")
    _add_directories(report)
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: report.html in DIR, if there is only one DIR)",
    )
    report.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="the file of past runs, for the trends (default: history.jsonl beside DIR)",
    )


def _add_export(commands: "Commands") -> None:
    export = commands.add_parser(
        "export",
        help="print recorded runs in a format that other programs read",
        description="Prints recorded runs as "
        + "; ".join(f"{name}: {about}" for name, about in EXPORT_FORMATS.items())
        + ".",
    )
    _add_directories(export)
    export.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="what to print")
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="write to this file instead, atomically"
    )
    export.add_argument(
        "--origin", metavar="NAME", help="for kcidb: the name of your CI system in KCIDB"
    )


def _add_trend(commands: "Commands") -> None:
    trend = commands.add_parser(
        "trend",
        help="show how measures changed over many runs, and since when",
        description="A change is the best split of a series in two: at least 5 runs a side, "
        "medians apart by 3 times the scatter and by 5 percent, and below 1 percent probability of "
        "any false alarm in all series together. It is for the worse if more stayed with the host, "
        "less came back, or it took longer.",
    )
    trend.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="show all of its series (default: changes)"
    )
    declare_history_option(trend.add_argument)
    trend.add_argument(
        "--measure", action="append", default=[], metavar="NAME", help="show this measure"
    )
    trend.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit with 1 if a measure got worse, with 69 if there are too few runs to tell",
    )


def _add_merge(commands: "Commands") -> None:
    merge = commands.add_parser(
        "merge",
        help="put the results of several machines together, and give their verdict",
        description="Puts results directories into a new one, with summary.json and junit.xml of "
        "all their runs, and exits with the status of all verdicts; 69 if a part of a --shard is "
        "missing. Runs of the same name get the name of their image or QEMU, or a number. "
        "`report` writes the page.",
    )
    _add_directories(merge)
    merge.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="new directory for the results"
    )
