# SPDX-License-Identifier: Apache-2.0
"""Options of `bisect-step` and `bisect-releases`."""

import argparse
from typing import TYPE_CHECKING

from harness.cli import bisect_rule, bisect_search
from harness.cli.options import (
    SCENARIO_HELP,
    add_boot_options,
    add_directory_option,
    add_run_options,
)

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_bisect_step(commands: "Commands") -> None:
    bisect = _add_bisection(
        commands,
        "bisect-step",
        help="build, run a scenario and exit as `git bisect run` wants it",
        description=bisect_rule.ABOUT,
    )
    bisect.add_argument(
        "--build",
        metavar="CMD",
        help="run this in a shell first; if it fails, the commit is skipped",
    )
    _add_confidence(bisect)


def add_bisect_releases(commands: "Commands") -> None:
    bisect = _add_bisection(
        commands,
        "bisect-releases",
        help="find the two builds of a kernel between which a scenario turned",
        description=bisect_search.ABOUT,
    )
    bisect.add_argument(
        "--series", metavar="X.Y", help="search the builds of this series, as in 6.12"
    )
    bisect.add_argument("--refresh", action="store_true", help="look for newer builds first")
    _add_confidence(bisect)


def _add_bisection(
    commands: "Commands", name: str, *, help: str, description: str
) -> argparse.ArgumentParser:
    bisect: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bisect.add_argument(
        "scenario", metavar="SCENARIO", help=f"{SCENARIO_HELP}; one scenario must match"
    )
    add_directory_option(bisect)
    add_boot_options(bisect)
    # Each step, and each build, has a directory of its own.
    bisect.set_defaults(results=None)
    add_run_options(bisect)
    return bisect


def _add_confidence(bisect: argparse.ArgumentParser) -> None:
    bisect.add_argument(
        "--until-confident",
        type=float,
        metavar="P",
        help="repeat until a bug that shows in --fails-in of the runs would have shown with "
        "probability P, as in 0.95",
    )
    bisect.add_argument(
        "--fails-in",
        type=float,
        metavar="SHARE",
        help="the part of its runs in which the bug shows, as in 0.33",
    )
