# SPDX-License-Identifier: Apache-2.0
"""The command line: parse the arguments, call the subcommand's module, return the exit status."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from harness.bug_report import internal_error
from harness.cli import bisect_rule
from harness.cli.parser import build_parser
from harness.cli.streams import ensure_streams
from harness.errors import UNAVAILABLE, USAGE, HarnessError, ScenarioFileError, UsageError
from harness.host_refusal import refusal_hint
from harness.image.cache import cache_directory
from harness.report.github import commands_stopped, in_actions
from harness.report.sink import LastingSink
from harness.run_log import log_to_terminal
from harness.safe_text import safe_text

PIPE_STATUS = 128 + signal.SIGPIPE
"""Exit status that a shell gives a program ended by SIGPIPE (`| head`)."""


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
    with _ending_as_on_ctrl_c(), _obeyed_by_nobody(options.command):
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
        where = error.filename or "standard output"
        print(f"fpr-harness: {safe_text(f'{where}: {error.strerror or error}')}", file=sys.stderr)
        print(f"What to do: {refusal_hint(error)}", file=sys.stderr)
        return UNAVAILABLE
    except Exception as error:  # noqa: BLE001 - one message and a report, not a traceback
        doing = f"carrying out `fpr-harness {options.command}`"
        reports = cache_directory() / "bug-reports"
        told = internal_error(error, doing, reports, attach=())
        print(f"fpr-harness: {safe_text(str(told))}", file=sys.stderr)
        return UNAVAILABLE
    return status


_TELL_GITHUB = ("run", "bisect-step", "export")
"""Commands that print workflow commands of their own."""


def _obeyed_by_nobody(command: str) -> contextlib.AbstractContextManager[None]:
    """Within the block, GitHub Actions obeys nothing that a guest has made a command print."""
    if command in _TELL_GITHUB or not in_actions():
        return contextlib.nullcontext()
    return commands_stopped(LastingSink(sys.stdout))


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
