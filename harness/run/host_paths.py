# SPDX-License-Identifier: Apache-2.0
"""Refuse host paths that no run could use, once and before anything starts.

QEMU takes paths in option strings, treats the path of its log as a template (util/log.c,
`valid_filename_template`), and the dynamic linker splits LD_PRELOAD (ld.so(8)).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import UsageError
from harness.image.cache import cache_directory
from harness.scenario.model import Scenario

_DIRECTORIES = ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TMPDIR")
_SPLITS_PRELOAD = " :"


def check_host_paths(results: Path | None, scenarios: Iterable[Scenario]) -> None:
    """Raise `UsageError` if the results directory, or one from the environment, cannot be used."""
    for name in _DIRECTORIES:
        _check_plain(name, os.environ.get(name, ""))
    cache = str(cache_directory())
    splits = any(char in cache for char in _SPLITS_PRELOAD)
    if splits and any(scenario.host.discard != "dontneed" for scenario in scenarios):
        raise UsageError(
            f"the path of the cache, {cache}, has a space or a colon, at which the dynamic linker "
            "splits LD_PRELOAD; `host.discard` preloads a shared object from there",
            hint="set XDG_CACHE_HOME to a directory without spaces and colons",
        )
    path = str((results or Path("results")).absolute())
    _check_plain("--results", path)
    if "%" in path:
        raise UsageError(
            f"--results {path}: QEMU would expand the `%` in the path of its log",
            hint="name a directory without a `%`",
        )


def _check_plain(name: str, path: str) -> None:
    # Bytes that are not UTF-8 (surrogates here) are allowed.
    if any(not (char.isprintable() or 0xDC80 <= ord(char) <= 0xDCFF) for char in path):
        raise UsageError(
            f"{name} holds characters that are not printable: {path!r}",
            hint="use a directory whose name has printable characters only",
        )
