# SPDX-License-Identifier: Apache-2.0
"""The command line: parse the arguments, call the subcommand's module, return the exit status."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from harness import __version__
from harness.bug_report import internal_error
from harness.cli import bisect_rule
from harness.cli.options import (
    add_boot_options,
    add_directory_option,
    add_run_options,
    declare_results_option,
)
from harness.cli.streams import ensure_streams
from harness.errors import UNAVAILABLE, USAGE, HarnessError, ScenarioFileError, UsageError
from harness.image.cache import cache_directory
from harness.run_log import log_to_terminal
from harness.safe_text import safe_text

PIPE_STATUS = 128 + signal.SIGPIPE
"""Exit status that a shell gives a program ended by SIGPIPE (`| head`)."""

ABOUT = """\
Does free page reporting really give a guest's freed memory back to the host, and does it ever
take too much? fpr-harness boots real guests under QEMU, churns memory in them, and compares what
the guest says is free with what the host really holds, page by page."""

EXIT_STATUS = """\
exit status (bisect-step has its own, see its --help):
  0   nothing failed and something passed
  1   a FAIL
  2   bad usage or a bad scenario file
  69  an ERROR or a MISS (the scenario or the infrastructure broke) and no FAIL
  77  everything was skipped"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fpr-harness",
        description=ABOUT,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fpr-harness {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run scenarios and judge them")
    run.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help="a scenario's name or file (default: those tagged `default`)",
    )
    add_directory_option(run)
    add_boot_options(run)
    declare_results_option(run.add_argument)
    add_run_options(run)
    run.add_argument(
        "--tag", action="append", default=[], help="run all scenarios with this tag: --tag full"
    )
    bisect = commands.add_parser(
        "bisect-step",
        help="build, run a scenario and exit as `git bisect run` wants it",
        description=bisect_rule.ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bisect.add_argument("scenario", metavar="SCENARIO", help="a scenario's name or file")
    add_directory_option(bisect)
    add_boot_options(bisect)
    # Each step makes a directory of its own.
    bisect.set_defaults(results=None)
    add_run_options(bisect)
    bisect.add_argument(
        "--build",
        metavar="CMD",
        help="run this in a shell first; if it fails, the commit is skipped",
    )
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
    judge = commands.add_parser(
        "judge", help="judge recorded runs again from their files, without a VM"
    )
    judge.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="a results directory"
    )
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
    report = commands.add_parser("report", help="write one HTML page of recorded runs")
    report.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="a results directory"
    )
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: report.html in DIR, if there is only one DIR)",
    )
    page = commands.add_parser("page", help="show the history of one page of a recorded run")
    page.add_argument("directory", type=Path, metavar="DIR", help="a results directory")
    page.add_argument("run", nargs="?", metavar="RUN", help="the run, if DIR has several")
    page.add_argument(
        "where",
        metavar="WHERE",
        help="a PFN (0x2200 or 8704), gpa:ADDRESS in the guest, or hva:ADDRESS in QEMU's memory",
    )
    listing = commands.add_parser("list", help="list the scenarios")
    add_directory_option(listing)
    doctor = commands.add_parser("doctor", help="check what this host can do, and what to fix")
    add_boot_options(doctor)

    image = commands.add_parser("image", help="build or list guest images")
    verbs = image.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser("build", help="build images (default: the default ones)")
    built = verbs.add_parser("list", help="list the images, and which are built")
    for verb in (build, built):
        verb.add_argument(
            "--image",
            action="append",
            default=[],
            metavar="NAME",
            help="an image, SUITE=VERSION, a comma-separated list, or `all`",
        )
        verb.add_argument("--refresh", action="store_true", help="look for newer packages first")
    built.add_argument(
        "--builds",
        action="store_true",
        help="list the builds of their kernels that the archive holds, for --image SUITE=VERSION",
    )

    kernel = commands.add_parser("kernel", help="check a kernel tree, for --kernel DIR")
    verbs = kernel.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser("check", help="say what a built tree lacks, and what each costs")
    check.add_argument(
        "directory", type=Path, metavar="DIR", help="a directory in which a kernel was built"
    )

    qemu = commands.add_parser("qemu", help="fetch or list builds of QEMU, for --qemu NAME")
    verbs = qemu.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser("build", help="fetch builds into the cache (default: all)")
    build.add_argument(
        "names", nargs="*", default=["all"], metavar="NAME", help="a build, as `qemu list` shows it"
    )
    build.add_argument("--refresh", action="store_true", help="look for a newer build first")
    verbs.add_parser("list", help="list the builds, and which are fetched")

    shell = commands.add_parser("shell", help="boot a guest and open a terminal in it")
    shell.add_argument(
        "guest_command",
        nargs="*",
        metavar="COMMAND",
        help="run this in the guest instead of a shell; put `--` before it if it has options",
    )
    shell.add_argument(
        "--memory", default="1GiB", metavar="SIZE", help="the guest's memory (default: 1GiB)"
    )
    shell.add_argument(
        "--vcpus", type=int, default=2, metavar="N", help="the guest's vCPUs (default: 2)"
    )
    add_boot_options(shell)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error becomes one message and an exit status."""
    ensure_streams()
    words = sys.argv[1:] if arguments is None else arguments
    bisecting = next(iter(words), None) == "bisect-step"
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as ended:
        # To git, 2 is a bad commit.
        raise SystemExit(bisect_rule.STOP if bisecting and ended.code else ended.code) from ended
    with _ending_as_on_ctrl_c():
        status = _execute(options)
    return bisect_rule.as_step(status) if bisecting else status


def _execute(options: argparse.Namespace) -> int:
    log_to_terminal(getattr(options, "verbose", 0))
    module = options.command.replace("-", "_")
    try:
        command = importlib.import_module(f"harness.cli.{module}_command")
        status = int(command.execute(options))
        sys.stdout.flush()
    except (UsageError, ScenarioFileError) as error:
        print(f"fpr-harness: {safe_text(str(error))}", file=sys.stderr)
        return USAGE
    except HarnessError as error:
        print(f"fpr-harness: {safe_text(str(error))}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        print("fpr-harness: interrupted", file=sys.stderr)
        return UNAVAILABLE
    except BrokenPipeError:
        _drop_output()
        return PIPE_STATUS
    except OSError as error:
        _drop_output()
        print(f"fpr-harness: {safe_text(str(error))}", file=sys.stderr)
        return UNAVAILABLE
    except Exception as error:  # noqa: BLE001 - one message and a report, not a traceback
        doing = f"carrying out `fpr-harness {options.command}`"
        reports = cache_directory() / "bug-reports"
        told = internal_error(error, doing, reports, attach=())
        print(f"fpr-harness: {safe_text(str(told))}", file=sys.stderr)
        return UNAVAILABLE
    return status


@contextlib.contextmanager
def _ending_as_on_ctrl_c() -> Iterator[None]:
    """While in the block, SIGTERM and SIGHUP end a command as Ctrl-C does, unless it takes them
    itself: what it began ends too, and half-made files go. Not SIGHUP under nohup(1)."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


def _drop_output() -> None:
    """Redirect standard output to /dev/null, or flushing it at exit would fail again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
