# SPDX-License-Identifier: Apache-2.0
"""Compiles the guest tool from its C source: static, every warning an error."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ImageError

COMMAND = ("cc", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")
COMPILE_SECONDS = 120.0


def tool_sources(images: Path) -> list[Path]:
    """The tool's source files, headers included, in a fixed order."""
    return sorted((images / "tool").glob("*.[ch]"))


def compile_tool(sources: Sequence[Path], output: Path) -> None:
    """Make the executable `output`. Raises `ImageError` with the compiler's words."""
    units = [str(path) for path in sources if path.suffix == ".c"]
    try:
        done = subprocess.run(
            [*COMMAND, "-o", str(output), *units],
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(
            "no C compiler (cc) for the guest tool", hint="run `make setup`, or install gcc"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"compiling the guest tool took over {COMPILE_SECONDS:.0f} s") from error
    if done.returncode:
        missing = "cannot find -lc" in done.stderr
        raise ImageError(
            f"the guest tool does not compile:\n{done.stderr.strip()}",
            hint="run `make setup`, or install libc6-dev (a static C library)" if missing else "",
        )
