# SPDX-License-Identifier: Apache-2.0
"""Paths of the host that no run could use, told once and before anything starts.

QEMU takes them in option strings, its log's path is a template (util/log.c,
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
    """Raise `UsageError` for a directory, given or from the environment, that cannot serve."""
    for name in _DIRECTORIES:
        _check_plain(name, os.environ.get(name, ""))
    cache = str(cache_directory())
    splits = any(char in cache for char in _SPLITS_PRELOAD)
    if splits and any(scenario.host.discard == "free" for scenario in scenarios):
        raise UsageError(
            f"the cache {cache} has a space or a colon in its path, at which the dynamic linker "
            "splits LD_PRELOAD; `host.discard: free` preloads an object from it",
            hint="set XDG_CACHE_HOME to a directory without them",
        )
    path = str((results or Path("results")).absolute())
    _check_plain("--results", path)
    if "%" in path:
        raise UsageError(
            f"--results {path}: QEMU takes the `%` in its log's path for a place to fill in",
            hint="name a directory without it",
        )


def _check_plain(name: str, path: str) -> None:
    # Bytes that are no UTF-8 (surrogates here) are a name like any other.
    if any(not (char.isprintable() or 0xDC80 <= ord(char) <= 0xDCFF) for char in path):
        raise UsageError(
            f"{name} holds characters that no terminal, script or log shows as they are: {path!r}",
            hint="name a directory of printable characters",
        )
