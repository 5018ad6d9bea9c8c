# SPDX-License-Identifier: Apache-2.0
"""Makes results directories, and writes files atomically."""

import datetime
import errno
import os
import stat
import tempfile
from itertools import count
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.file_kind import mode_kind
from harness.record.reader import RESULTS_NAME

DEFAULT_BASE = Path("results")


def make_results_directory(explicit: Path | None, base: Path = DEFAULT_BASE) -> Path:
    """Make the directory of one invocation: `explicit`, or `base/<UTC time>` with `base/latest`.

    Raises `UsageError` if `explicit` already holds results, which would be judged together with the
    new ones, and `RecordError` if the directory cannot be made.
    """
    try:
        if explicit is None:
            return _make_timed(base)
        explicit.mkdir(parents=True, exist_ok=True)
        _refuse_if_anybodys(explicit)
        _claim(explicit)
    except OSError as error:
        raise RecordError(
            f"cannot make the results directory {error.filename or explicit}: {error.strerror}",
            hint="choose another with --results DIR",
        ) from error
    return explicit


def _refuse_if_anybodys(directory: Path) -> None:
    """Where any user may rename files, no file stays the one that was written."""
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UsageError(
            f"any user may write to the results directory {directory}, and exchange files in it",
            hint=f"chmod o-w {directory}, or name another with --results",
        )


def check_default_base() -> None:
    """Raise `RecordError` if no results can be made in the current directory."""
    try:
        DEFAULT_BASE.mkdir(exist_ok=True)
        if not os.access(DEFAULT_BASE, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), DEFAULT_BASE)
    except OSError as error:
        raise RecordError(
            f"cannot make the results directory {error.filename}: {error.strerror}",
            hint="run it in a directory in which you can create results/",
        ) from error


def _claim(directory: Path) -> None:
    """Create results.jsonl, which must not exist: of two concurrent invocations, one gets it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(directory / RESULTS_NAME, flags, 0o600))
    except FileExistsError as error:
        raise UsageError(
            f"{directory} already holds the results of another run",
            hint="remove it, or name another directory with --results",
        ) from error


def _make_timed(base: Path) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for number in count(1):
        directory = base / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        break
    # Replace the link atomically, so that `latest` always exists.
    link = base / f".latest-{directory.name}"
    link.symlink_to(directory.name)
    link.replace(base / "latest")
    return directory


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, and sync it to disk.

    Raises `RecordError`, also if `path` leads to a device or whatever else is no regular file: root
    could replace it.
    """
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file():
            kind = mode_kind(path.stat().st_mode)
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")  # noqa: TRY301
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error.strerror}",
            hint="free space there, or make the directory writable; nothing that was measured is "
            "lost: results.jsonl holds it",
        ) from error
