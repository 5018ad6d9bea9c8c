# SPDX-License-Identifier: Apache-2.0
"""Compiles the project's own C programs, treating every warning as an error."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ImageError

COMPILER = ("cc", "-O2", "-Wall", "-Wextra", "-Werror")
STATIC = ("-static", "-s")
"""Flags for a program of the guest, which has no C library."""
SHARED = ("-shared", "-fPIC")
"""Flags for an object to preload into a program on the host."""
COMPILE_SECONDS = 120.0


def tool_sources(images: Path) -> list[Path]:
    """List the guest tool's source files, headers included, in a fixed order."""
    return sorted((images / "tool").glob("*.[ch]"))


def compile_c(sources: Sequence[Path], output: Path, flags: Sequence[str] = STATIC) -> bytes:
    """Compile `output` and return its bytes. Raises `ImageError` with the compiler's output."""
    units = [str(path) for path in sources if path.suffix == ".c"]
    try:
        done = subprocess.run(
            [*COMPILER, *flags, "-o", str(output), *units],
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"cannot compile {output.name}: there is no C compiler (cc)",
            hint="run `make setup`, or install gcc and libc6-dev",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"compiling {output.name} took over {COMPILE_SECONDS:.0f} s",
            hint="try again when the machine is less loaded",
        ) from error
    if done.returncode:
        missing = "cannot find -lc" in done.stderr
        raise ImageError(
            f"{output.name} does not compile:\n{done.stderr.strip()}",
            hint="run `make setup`, or install libc6-dev (a static C library)"
            if missing
            else "see the compiler's output above",
            evidence=[path.parent for path in sources[:1]],
        )
    return output.read_bytes()
