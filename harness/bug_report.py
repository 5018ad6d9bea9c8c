# SPDX-License-Identifier: Apache-2.0
"""What to do with an exception that nobody expected: it is a defect of the harness.

It must never look like a verdict about the guest, and the person who meets it must have all that a
report needs in one file.
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
from harness.errors import InternalError
from harness.run_log import LOG_NAME, escaped

REPORT_NAME = "bug-report.txt"
LONGEST_WORDS = 300
"""Characters of the exception's own words in a message; the report has them all."""

LOG = logging.getLogger(__name__)


def internal_error(
    error: BaseException,
    doing: str,
    directory: Path | None,
    *,
    facts: Mapping[str, str] | None = None,
    attach: Sequence[str] = (LOG_NAME, "../results.jsonl"),
) -> InternalError:
    """The error to go on with after `error`, met while `doing`; the report lies in `directory`.

    `facts` go into the report. `attach` names the files of `directory` that help. Never raises:
    where no report can be written, the log and the message have to do.
    """
    LOG.error("unexpected exception while %s", doing, exc_info=error)
    words = escaped(f"{type(error).__name__}: {error}".split("\n", 1)[0])[:LONGEST_WORDS]
    message = f"fpr-harness met a defect of its own while {doing}: {words}"
    path = None if directory is None else _write(error, doing, directory, facts or {}, attach)
    where = "the traceback" if path is None else printable_path(path)
    return InternalError(
        message,
        hint=f"this says nothing about the guest; please report it with {where}",
        evidence=[path] if path is not None else [],
    )


def printable_path(path: Path) -> str:
    """A path for a message, also where its name is not UTF-8."""
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
        "fpr-harness met an exception that it does not expect. That is a defect of the harness,",
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
