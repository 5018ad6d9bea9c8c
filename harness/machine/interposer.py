# SPDX-License-Identifier: Apache-2.0
"""Build the shared object, preloaded into QEMU, that changes its discards; see interposer.c."""

import hashlib
from pathlib import Path

from harness.errors import LaunchError
from harness.image.cache import cache_directory, check_own, exclusive, is_intact, made_whole, seal
from harness.image.compile import SHARED, compile_c
from harness.resources import INTERPOSER_SOURCE

LIBRARY = "interposer.so"


def build_interposer() -> Path:
    """Build the object once for each version of its source. Raises `ImageError`."""
    made_from = INTERPOSER_SOURCE.read_bytes() + " ".join(SHARED).encode()
    key = hashlib.sha256(made_from).hexdigest()[:16]
    shelf = cache_directory() / "interposer"
    target = shelf / key
    check_own(target)
    if not is_intact(target, LIBRARY):
        with exclusive(shelf / "lock", "the interposer"):
            if not is_intact(target, LIBRARY):
                with made_whole(target) as directory:
                    compile_c([INTERPOSER_SOURCE], directory / LIBRARY, SHARED)
                    seal(directory)
    return target / LIBRARY


def lazy_environment() -> dict[str, str]:
    """Return the environment in which QEMU discards with MADV_FREE. Raises `ImageError`."""
    return {"LD_PRELOAD": str(build_interposer()), "FPR_DISCARD": "lazily"}


def check_preloaded(pid: int, environment: dict[str, str]) -> None:
    """Raise `LaunchError` unless QEMU has loaded the object that `environment` preloads.

    A static or set-uid QEMU ignores LD_PRELOAD.
    """
    library = environment.get("LD_PRELOAD")
    if library is None:
        return
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return  # QEMU has ended, which the next wait reports
    # The kernel shows the path of the file itself, not of a symbolic link to it.
    if str(Path(library).resolve()) not in maps:
        raise LaunchError(
            "QEMU did not load the shared object that makes its discards lazy (discard: free)",
            hint="use a dynamically linked QEMU without set-uid; see the loader's message in "
            "qemu.log",
        )
