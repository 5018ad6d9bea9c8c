# SPDX-License-Identifier: Apache-2.0
"""Options that several commands and the pytest plugin share."""

import argparse
import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import UsageError
from harness.file_kind import why_not
from harness.resources import SCENARIOS_DIR

if TYPE_CHECKING:
    from harness.run.plan import RunOptions


SCENARIO_HELP = "a scenario's name, a pattern of names in quotes ('reclaim-*'), or a file"


class Once(argparse.Action):
    """An option that may not be given twice with different values."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option_string: str | None = None,
    ) -> None:
        earlier = getattr(namespace, self.dest, None)
        if earlier is not None and earlier != values:
            raise argparse.ArgumentError(self, f"given twice, as {earlier} and as {values}")
        setattr(namespace, self.dest, values)


def declare_boot_options(add: Callable[..., Any]) -> None:
    """Declare which guest to boot, and how; `add` is argparse's or pytest's `add_argument`."""
    add(
        "--image",
        action="append",
        default=[],
        metavar="NAME",
        help="guest image, SUITE=VERSION for another build of its kernel (`fpr-harness image list "
        "--builds`), a comma-separated list, or `all` (default: the default image)",
    )
    declare_machine_options(add)


def declare_machine_options(add: Callable[..., Any]) -> None:
    """Declare all of the guest but its image."""
    add(
        "--kernel",
        action=Once,
        type=Path,
        metavar="PATH",
        help="a bzImage or a kernel build tree to boot",
    )
    add(
        "--modules",
        action=Once,
        type=Path,
        metavar="DIR",
        help="the modules of --kernel (lib/modules/VERSION)",
    )
    add(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="auto takes KVM if a guest becomes ready under it, else TCG (default: auto)",
    )
    add(
        "--qemu",
        action="append",
        default=[],
        metavar="PATH|NAME",
        help="a qemu-system-x86_64, a build to fetch (`fpr-harness qemu list`), a comma-separated "
        "list, or `all` builds (default: `host`, the installed one)",
    )


def declare_directory_option(add: Callable[..., Any]) -> None:
    """Declare the directory of scenarios."""
    add(
        "--scenarios",
        type=Path,
        dest="scenarios_directory",
        metavar="DIR",
        help="use the scenarios in DIR (*.yaml) instead of the harness's own",
    )


def _named(text: str) -> Path:
    """A path; an empty word, as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("names no directory: the word is empty")
    return Path(text)


def declare_results_option(add: Callable[..., Any]) -> None:
    """Declare where the results go."""
    add(
        "--results",
        type=_named,
        metavar="DIR",
        help="new directory for the results (default: results/<UTC time>)",
    )


def declare_run_options(add: Callable[..., Any]) -> None:
    """Declare how to run scenarios, and how often."""
    declare_clock_option(add)
    add("--jobs", type=int, metavar="N", help="guests at once (default: as many as fit the host)")
    add("--repeat", type=int, default=1, metavar="N", help="run everything N times (default: 1)")
    add(
        "--keep-failed",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="keep the guest of a run that did not pass up for this long, to log in to it",
    )
    declare_scenario_options(add)


def declare_clock_option(add: Callable[..., Any]) -> None:
    """Declare the guests' clock."""
    add(
        "--clock",
        choices=("real", "virtual", "auto"),
        default="real",
        help="virtual: the guest's clock counts its instructions, and a guest that idles jumps to "
        "its next timer instead of waiting (TCG only; default: real); auto: virtual where KVM "
        "is not, for the scenarios that are valid under it",
    )


def declare_night_options(add: Callable[..., Any]) -> None:
    """Declare what nights on several machines need."""
    _declare_shard_option(add)
    _declare_patience_options(add)
    declare_history_option(add)


def _declare_shard_option(add: Callable[..., Any]) -> None:
    """Declare which part of the runs is for this machine."""
    add(
        "--shard",
        metavar="I/N",
        help="run the I-th of N parts that take about the same time and memory, as 1/4 to 4/4 on "
        "four machines; `fpr-harness merge` puts their results together",
    )


def _declare_patience_options(add: Callable[..., Any]) -> None:
    """Declare what a night does with runs that break by themselves."""
    add(
        "--retry",
        type=int,
        default=0,
        choices=(0, 1, 2),
        metavar="N",
        help="try a run that the infrastructure broke (MISS) again on a new VM, at most N times, "
        "0 to 2; a FAIL never (default: 0)",
    )

    add(
        "--quarantine",
        type=Path,
        metavar="FILE",
        help="a YAML file of runs that go on and are shown and do not make the exit status: "
        "scenario, owner, link, expires (docs/nights.md)",
    )


def declare_history_option(add: Callable[..., Any]) -> None:
    """Declare the history that `trend` reads."""
    add(
        "--history",
        type=Path,
        metavar="FILE",
        help="the file of past runs (default: results/history.jsonl; none with --results)",
    )


def declare_permissions(add: Callable[..., Any]) -> None:
    """Declare what to let scenarios do that may reach beyond their guests."""
    add(
        "--allow-qmp",
        action="append",
        default=[],
        metavar="COMMAND",
        help="let scenarios send this QMP command, which may reach beyond the guest",
    )
    add(
        "--allow-qemu-args",
        action="store_true",
        help="let scenarios give QEMU further words (host.qemu_args), which may reach the host",
    )


def declare_scenario_options(add: Callable[..., Any]) -> None:
    """Declare what to change in the scenarios, and what to let them do."""
    declare_permissions(add)
    add(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="FIELD=VALUE",
        help="change a field of the scenarios: guest.memory=2GiB",
    )


def add_boot_options(parser: argparse.ArgumentParser) -> None:
    declare_boot_options(parser.add_argument)
    add_verbose_option(parser)


def add_verbose_option(parser: argparse.ArgumentParser) -> None:
    # Not for pytest, which has its own -v; each run's harness.log has everything in any case.
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log steps and findings on standard error; -vv: everything in harness.log",
    )


def add_directory_option(parser: argparse.ArgumentParser) -> None:
    declare_directory_option(parser.add_argument)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    declare_run_options(parser.add_argument)
    add_quiet_option(parser)


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    # Not for pytest, which has its own -q.
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show no progress, only the results at the end"
    )


def scenarios_directory(options: Any) -> Path:
    """Return the directory of `--scenarios`, or the project's own. Raises `UsageError`."""
    directory: Path | None = options.scenarios_directory
    if directory is None:
        return SCENARIOS_DIR
    if not directory.is_dir():
        raise UsageError(
            f"--scenarios {directory}: not a directory",
            hint="name a directory of scenario files; give a single file without the option",
        )
    if next(directory.glob("*.yaml"), None) is None:
        raise UsageError(
            f"--scenarios {directory}: it contains no scenario file (*.yaml)",
            hint="name a directory of scenario files",
        )
    return directory


MOST_REPEATS = 100_000
MOST_MINUTES = 7 * 24 * 60


def check_run_options(options: Any, *, paths: bool = True) -> None:
    """Refuse options that make no sense, before anything is created. Raises `UsageError`.

    `paths`: whether the kernel and the modules must already be there.
    """
    if options.repeat < 1 or (options.jobs is not None and options.jobs < 1):
        raise UsageError("--repeat, --runs and --jobs take a number of at least 1")
    if options.repeat > MOST_REPEATS:
        raise UsageError(f"--repeat takes at most {MOST_REPEATS}")
    if not 0 <= options.keep_failed <= MOST_MINUTES:
        raise UsageError(f"--keep-failed takes minutes, 0 to {MOST_MINUTES} (a week)")
    images = {name for group in options.image for name in group.split(",") if name}
    if options.kernel is not None and (len(images) > 1 or "all" in images):
        raise UsageError(
            "--kernel replaces the kernel of the image, so all images would run the same kernel",
            hint="name one image with --image, or none",
        )
    if options.kernel is not None and any("=" in name for name in images):
        raise UsageError(
            "--kernel and --image SUITE=VERSION each name a kernel", hint="leave one of them out"
        )
    if options.modules is not None and options.kernel is None:
        raise UsageError("--modules needs --kernel", hint="name the kernel of these modules")
    if paths:
        check_paths(options)


def check_paths(options: Any) -> None:
    """Raise `UsageError` if a path does not exist or is of the wrong kind."""
    # Path.exists() and Path.is_dir() raise where nothing can be seen.
    kernel, modules = options.kernel, options.modules
    if kernel is not None and not os.path.exists(kernel):  # noqa: PTH110
        raise UsageError(
            f"--kernel {kernel}: {why_not(kernel, 'a kernel', 'no such file or directory')}",
            hint="name a bzImage, or a built kernel tree",
        )
    if modules is not None and not os.path.isdir(modules):  # noqa: PTH112
        raise UsageError(
            f"--modules {modules}: {why_not(modules, 'a directory', 'no such directory')}",
            hint="name the kernel's directory lib/modules/VERSION",
        )


def run_options(options: Any) -> "RunOptions":
    """Turn parsed options (argparse's namespace or pytest's) into `RunOptions`.

    Raises `UsageError`, and `ScenarioFileError` for the file of `--quarantine`.
    """
    # Imported here to keep commands that run nothing fast.
    from harness.run.plan import RunOptions
    from harness.run.quarantine import Quarantine, load_quarantine

    if options.modules is not None and options.kernel is None:
        raise UsageError("--modules needs --kernel", hint="name the kernel of these modules")
    quarantine: Path | None = getattr(options, "quarantine", None)
    today = datetime.datetime.now(datetime.UTC).date()
    record: bool = getattr(options, "record", False)
    clock: Literal["real", "virtual", "auto"] = getattr(options, "clock", "real")
    clock = "virtual" if record else clock
    if clock == "virtual" and options.accel == "kvm":
        raise UsageError(
            f"--{'record' if record else 'clock virtual'} counts the guest's instructions, which "
            "KVM does not do",
            hint="leave one of the two options out",
        )
    return RunOptions(
        accel=options.accel,
        clock=clock,
        record=record,
        kernel=options.kernel,
        modules=options.modules,
        keep_failed=60.0 * getattr(options, "keep_failed", 0.0),
        overrides=tuple(getattr(options, "overrides", ())),
        retry=getattr(options, "retry", 0),
        quarantine=load_quarantine(quarantine, today) if quarantine else Quarantine(),
        shard=getattr(options, "shard", None) or "",
    )
