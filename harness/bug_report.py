# SPDX-License-Identifier: Apache-2.0
"""Turn an unexpected exception into an `InternalError` and a `bug-report.txt`.

An unexpected exception is a defect of the harness. It must not look like a verdict about the
guest, and one file must hold everything that a bug report needs.
"""

import contextlib
import datetime
import logging
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import __version__
from harness.errors import InternalError, LaunchError
from harness.host_refusal import refusal
from harness.run_log import LOG_NAME, escaped

REPORT_NAME = "bug-report.txt"
LONGEST_WORDS = 300
"""Characters of the exception's text quoted in a message; the report holds the whole text."""

LOG = logging.getLogger(__name__)


def internal_error(
    error: BaseException,
    doing: str,
    directory: Path | None,
    *,
    facts: Mapping[str, str] | None = None,
    attach: Sequence[str] = (LOG_NAME, "../results.jsonl"),
) -> InternalError | LaunchError:
    """Log `error`, write a report into `directory`, and return the error to continue with.

    `doing` says what was going on, `facts` are added to the report, and `attach` names the files
    of `directory` that help to debug it. Something that the host refused because of its limits is
    no bug: it gets no report, and a `LaunchError`. Never raises: if the report cannot be written,
    the log and the message remain.
    """
    LOG.error("unexpected exception while %s", doing, exc_info=error)
    if refused := refusal(error, doing):
        return refused
    words = escaped(f"{type(error).__name__}: {error}".split("\n", 1)[0])[:LONGEST_WORDS]
    message = f"fpr-harness hit a bug of its own while {doing}: {words}"
    path = None if directory is None else _write(error, doing, directory, facts or {}, attach)
    where = "the traceback" if path is None else printable_path(path)
    return InternalError(
        message,
        hint=f"this says nothing about the guest; please report it with {where}",
        evidence=[path] if path is not None else [],
    )


def printable_path(path: Path) -> str:
    """Return a path fit for a message, even if its name is not UTF-8."""
    return escaped(str(path))


def _write(
    error: BaseException,
    doing: str,
    directory: Path,
    facts: Mapping[str, str],
    attach: Sequence[str],
) -> Path | None:
    known = {
        "fpr-harness": __version__,
        "Python": sys.version.split()[0],
        "host": f"{platform.system()} {platform.release()} {platform.machine()}",
        "command": " ".join(sys.argv),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
    }
    lines = [
        "fpr-harness hit an exception that it does not expect. That is a bug in the harness,",
        "whatever the guest did. Please report it with this file and, if you can,",
        f"{' and '.join(attach)}." if attach else "the command's output.",
        "",
        *(f"{name}: {value}" for name, value in known.items()),
        f"while: {doing}",
        "",
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    path = directory / REPORT_NAME
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as report:
            report.writelines(escaped(line) + "\n" for line in lines)
        return path
    return None
