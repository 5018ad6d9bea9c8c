# SPDX-License-Identifier: Apache-2.0
"""Build the shared object, preloaded into QEMU, that changes its discards; see interposer.c."""

from pathlib import Path

from harness.errors import LaunchError
from harness.image.cache import cache_directory, made_once
from harness.image.compile import SHARED, compile_c
from harness.machine.spec import Discard
from harness.resources import INTERPOSER_SOURCE

LIBRARY = "interposer.so"

SLOW_SECONDS = 0.15
"""For one discard of a slow host: a batch of 32 takes longer than a pass."""


def build_interposer() -> Path:
    """Build the object once for each version of its source. Raises `ImageError`."""
    made_from = INTERPOSER_SOURCE.read_bytes() + " ".join(SHARED).encode()
    return made_once(
        cache_directory() / "interposer",
        made_from,
        LIBRARY,
        "the interposer",
        lambda output: compile_c([INTERPOSER_SOURCE], output, SHARED),
    )


def discard_environment(discard: Discard, directory: Path) -> dict[str, str]:
    """Return the environment in which QEMU discards so. Raises `ImageError`.

    `directory`: the machine's own.
    """
    preload = {} if discard == "dontneed" else {"LD_PRELOAD": str(build_interposer())}
    match discard:
        case "free":
            return {**preload, "FPR_DISCARD": "lazily"}
        case "slow":
            delay = f"delay-ms={SLOW_SECONDS * 1000:.0f}"
            return {
                **preload,
                "FPR_DISCARD": delay,
                "FPR_DISCARD_FROM": str(slow_from(directory)),
            }
    return preload


def slow_from(directory: Path) -> Path:
    """Return the file that makes discards slow while it exists, in a machine's directory."""
    return directory / "slow-from"


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
            "QEMU did not load the shared object that changes its discards (discard: free, slow)",
            hint="use a dynamically linked QEMU without set-uid; see the loader's message in "
            "qemu.log",
        )
