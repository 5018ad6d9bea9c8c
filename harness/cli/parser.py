# SPDX-License-Identifier: Apache-2.0
"""The parser of the whole command line; the man page and shell completions are made from it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.cli import audit_options, bisect_options, compare_sides
from harness.cli.options import (
    SCENARIO_HELP,
    add_boot_options,
    add_directory_option,
    add_quiet_option,
    add_run_options,
    add_verbose_option,
    declare_machine_options,
    declare_night_options,
    declare_permissions,
    declare_results_option,
    declare_scenario_options,
)
from harness.cli.parser_recorded import add_recorded_commands
from harness.image.kernel_config import DEBUGS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

ABOUT = """\
Does free page reporting really give a guest's freed memory back to the host, and does it ever
take too much? fpr-harness boots real guests under QEMU, churns memory in them, and compares what
the guest says is free with what the host really holds, page by page."""

EXIT_STATUS = """\
exit status (bisect-step, bisect-releases and compare have their own, see --help):
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
    _add_run(commands)
    bisect_options.add_bisect_step(commands)
    bisect_options.add_bisect_releases(commands)
    _add_compare(commands)
    _add_sizing(commands)
    _add_replay(commands)
    _add_mail(commands)
    add_recorded_commands(commands)
    _add_page(commands)
    _add_audit(commands)
    _add_list(commands)
    _add_show(commands)
    doctor = commands.add_parser("doctor", help="check what this host can do, and what to fix")
    add_boot_options(doctor)
    _add_image(commands)
    _add_kernel(commands)
    _add_qemu(commands)
    _add_shell(commands)
    return parser


def _add_run(commands: "Commands") -> None:
    run = commands.add_parser("run", help="run scenarios and judge them")
    run.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"{SCENARIO_HELP} (default: those tagged `default`)",
    )
    add_directory_option(run)
    add_boot_options(run)
    declare_results_option(run.add_argument)
    add_run_options(run)
    declare_night_options(run.add_argument)
    run.add_argument(
        "--tag", action="append", default=[], help="run all scenarios with this tag: --tag full"
    )
    run.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="put everything about the runs into one file, for `fpr-harness replay`",
    )
    run.add_argument(
        "--record",
        action="store_true",
        help="let QEMU (10.0 or later, TCG) record each guest, so that `fpr-harness replay DIR` "
        "shows it again, instruction by instruction; implies --clock virtual",
    )
    run.add_argument(
        "--with-kernel", action="store_true", help="put kernel and initramfs into it, too"
    )


def _add_compare(commands: "Commands") -> None:
    compare = commands.add_parser(
        "compare",
        help="run scenarios with A and B in turn, and say what differs",
        description=compare_sides.ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare_sides.declare(compare)
    add_quiet_option(compare)
    add_directory_option(compare)
    add_boot_options(compare)
    declare_results_option(compare.add_argument)
    declare_scenario_options(compare.add_argument)


def _add_sizing(commands: "Commands") -> None:
    sizing = commands.add_parser(
        "sizing", help="sweep reporting orders and delays: what each saves and costs"
    )
    sizing.add_argument(
        "--orders", metavar="LIST", help="reporting orders to set, as in 9,0 (default: 9,4,2,0)"
    )
    sizing.add_argument(
        "--delays",
        metavar="LIST",
        help="delays between passes to set, as in 2s,100ms; from Linux 7.3 on (default: none set)",
    )
    sizing.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="run each setting N times (default: 1)"
    )
    add_quiet_option(sizing)
    add_directory_option(sizing)
    add_boot_options(sizing)
    declare_results_option(sizing.add_argument)
    declare_scenario_options(sizing.add_argument)
    sizing.set_defaults(keep_failed=0.0)


def _add_replay(commands: "Commands") -> None:
    replay = commands.add_parser(
        "replay",
        help="run what a bundle of `run --bundle` holds, and say what differs; or repeat the guest "
        "that `run --record` recorded",
    )
    replay.add_argument(
        "bundle",
        type=Path,
        metavar="FILE|DIR",
        help="a bundle, or the directory of a run with a recording",
    )
    replay.add_argument(
        "--gdb",
        type=int,
        metavar="PORT",
        help="stop a recorded guest before its first instruction and let a debugger in here",
    )
    declare_machine_options(replay.add_argument)
    add_verbose_option(replay)
    add_quiet_option(replay)
    declare_results_option(replay.add_argument)
    declare_permissions(replay.add_argument)
    # The accelerator is that of the bundle, unless one is asked for.
    replay.set_defaults(accel=None, jobs=None)


def _add_mail(commands: "Commands") -> None:
    mail = commands.add_parser(
        "mail", help="write a failed run, or a comparison, as a mail to a kernel list"
    )
    mail.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a results directory; of one that `compare` made, the table for a patch series",
    )
    mail.add_argument("run", nargs="?", metavar="RUN", help="the run (default: the first FAIL)")


def _add_page(commands: "Commands") -> None:
    page = commands.add_parser("page", help="show the history of one page of a recorded run")
    page.add_argument("directory", type=Path, metavar="DIR", help="a results directory")
    page.add_argument("run", nargs="?", metavar="RUN", help="the run, if DIR has several")
    page.add_argument(
        "where",
        metavar="WHERE",
        help="a PFN (0x2200 or 8704), gpa:ADDRESS in the guest, or hva:ADDRESS in QEMU's memory",
    )


def _add_audit(commands: "Commands") -> None:
    audit = commands.add_parser(
        "audit",
        help="say why a running VM, whoever started it, takes so much memory",
        description=audit_options.ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit_options.add_audit_options(audit)


def _add_list(commands: "Commands") -> None:
    listing = commands.add_parser("list", help="list the scenarios, with length and needs")
    listing.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"{SCENARIO_HELP} (default: all)"
    )
    add_directory_option(listing)
    listing.add_argument(
        "--tag", action="append", default=[], help="list the scenarios with this tag: --tag control"
    )
    listing.add_argument("--json", action="store_true", help="print a JSON document instead")


def _add_show(commands: "Commands") -> None:
    show = commands.add_parser(
        "show", help="show what a scenario asks and why, its steps and what it expects"
    )
    show.add_argument("scenarios", nargs="+", metavar="SCENARIO", help=SCENARIO_HELP)
    add_directory_option(show)


def _verbs(commands: "Commands", name: str, about: str) -> Any:
    parser = commands.add_parser(name, help=about)
    return parser.add_subparsers(dest="verb", required=True, metavar="VERB")


def _add_image(commands: "Commands") -> None:
    verbs = _verbs(commands, "image", "build or list guest images")
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


def _add_kernel(commands: "Commands") -> None:
    verbs = _verbs(commands, "kernel", "check a kernel tree, for --kernel DIR")
    check = verbs.add_parser("check", help="say what a built tree lacks, and what each costs")
    check.add_argument(
        "directory", type=Path, metavar="DIR", help="a directory in which a kernel was built"
    )
    config = verbs.add_parser(
        "config", help="merge what a guest needs into a tree's configuration, and say why"
    )
    config.add_argument(
        "directory", type=Path, metavar="DIR", help="the sources of Linux, or that of `make O=DIR`"
    )
    config.add_argument(
        "--debug",
        action="append",
        default=[],
        choices=DEBUGS,
        help="merge a checker, too: KASAN for memory, lockdep for locks",
    )
    config.add_argument("--build", action="store_true", help="build kernel and modules, too")


def _add_qemu(commands: "Commands") -> None:
    verbs = _verbs(commands, "qemu", "fetch or list builds of QEMU, for --qemu NAME")
    build = verbs.add_parser("build", help="fetch builds into the cache (default: all)")
    build.add_argument(
        "names", nargs="*", default=["all"], metavar="NAME", help="a build, as `qemu list` shows it"
    )
    build.add_argument("--refresh", action="store_true", help="look for a newer build first")
    verbs.add_parser("list", help="list the builds, and which are fetched")


def _add_shell(commands: "Commands") -> None:
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
