# SPDX-License-Identifier: Apache-2.0
"""The cache, `$XDG_CACHE_HOME/fpr-harness`: entries appear atomically; one builder at a time."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from harness.deadline import Deadline
from harness.errors import ImageError, UsageError
from harness.stopping import LOOK_SECONDS, check_stop

LOCK_SECONDS = 600.0
"""Deadline for the lock: another builder may be fetching packages over a slow connection."""

_MAKING = ".making."
_SEAL = "sha256.json"


def cache_directory() -> Path:
    """Return the directory of everything that can be built again. Raises `UsageError`."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not base.is_absolute():
        raise UsageError(
            f"XDG_CACHE_HOME={base} is not an absolute path",
            hint="set it to an absolute path, as the XDG base directory specification requires",
        )
    return base / "fpr-harness"


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block, waiting for another builder if necessary.

    Raises `ImageError`, `DeadlineError`, `InterruptedRunError`.
    """
    lock = FileLock(path, timeout=LOOK_SECONDS)
    deadline = Deadline(LOCK_SECONDS, f"another process to end building {what}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not lock.is_locked:
            check_stop(f"another process built {what}")
            with contextlib.suppress(Timeout):
                lock.acquire()
            if not lock.is_locked:
                deadline.check()
    except OSError as error:
        raise ImageError(
            f"cannot write to the cache {path.parent}: {error.strerror}",
            hint="free the disk, or set XDG_CACHE_HOME to a directory of yours",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Make a temporary directory that becomes `target` if the block succeeds, or is removed.

    Call it under a lock on the parent: it removes what killed builders left there. Raises
    `ImageError` if writing fails.
    """
    for stale in target.parent.glob(f"{_MAKING}*"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_MAKING, dir=target.parent))
    except OSError as error:
        raise ImageError(
            f"cannot write to the cache {target.parent}: {error.strerror}",
            hint="free the disk, or set XDG_CACHE_HOME to a directory of yours",
        ) from error
    try:
        yield temporary
        if target.is_symlink():
            target.unlink()
        elif target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise ImageError(
            f"cannot make {target}: {error}",
            hint="free space on the disk, or set XDG_CACHE_HOME to a directory with space",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def made_once(
    shelf: Path, made_from: bytes, name: str, what: str, make: Callable[[Path], object]
) -> Path:
    """Return the file `name` that `make` writes to a path, made once for each `made_from`.

    `shelf`: its directory in the cache; `what`: names it in messages. Raises `ImageError`.
    """
    target = shelf / hashlib.sha256(made_from).hexdigest()[:16]
    check_own(target)
    if not is_intact(target, name):
        with exclusive(shelf / "lock", what):
            if not is_intact(target, name):
                with made_whole(target) as directory:
                    make(directory / name)
                    seal(directory)
    return target / name


def seal(directory: Path) -> None:
    """Record the SHA-256 of each file in a directory, for `is_intact`. Raises `OSError`."""
    sums = {path.name: file_sha256(path) for path in sorted(directory.iterdir()) if path.is_file()}
    (directory / _SEAL).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def is_intact(directory: Path, *names: str) -> bool:
    """Tell whether a sealed directory has these files, and every file is unchanged."""
    try:
        sums = json.loads((directory / _SEAL).read_text(encoding="utf-8"))
        return (
            isinstance(sums, dict)
            and set(names) <= set(sums)
            and all(file_sha256(directory / name) == known for name, known in sums.items())
        )
    except (OSError, ValueError, RecursionError):
        return False


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_own(directory: Path) -> None:
    """Check that no other user can change a directory in the cache, before anything in it is used.

    QEMU and what is preloaded into it are programs, and the kernel decides what a run shows.
    Raises `ImageError`.
    """
    place = another_users(directory)
    if place is not None:
        raise ImageError(
            f"refusing to use the cache {place}: it belongs to another user, or any user may write "
            "to it",
            hint="set XDG_CACHE_HOME to a directory of yours",
        )


def another_users(directory: Path) -> Path | None:
    """Return the first directory on the path into the cache that a user other than root and this
    one can change; None if there is none."""
    for path in (cache_directory(), *directory.relative_to(cache_directory()).parents, directory):
        place = cache_directory() / path
        try:
            status = place.stat()
        except OSError:
            continue  # reported by whoever reads it
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
            return place
    return None
