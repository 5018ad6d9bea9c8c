# SPDX-License-Identifier: Apache-2.0
"""Compiles the project's own C programs, treating every warning as an error."""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import DeadlineError, ImageError
from harness.host_refusal import refusal_hint
from harness.image.host_program import run_program

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
        command = [*COMPILER, *flags, "-o", str(output), *units]
        done = run_program(command, COMPILE_SECONDS)
    except FileNotFoundError as error:
        raise ImageError(
            f"cannot compile {output.name}: there is no C compiler (cc)",
            hint="run `make setup`, or install gcc and libc6-dev",
        ) from error
    except OSError as error:
        raise ImageError(f"cannot start cc: {error}", hint=refusal_hint(error)) from error
    except DeadlineError as error:
        raise ImageError(
            f"compiling {output.name} took over {COMPILE_SECONDS:.0f} s",
            hint="try again when the machine is less loaded",
        ) from error
    if done.status:
        missing = "cannot find -lc" in done.stderr
        raise ImageError(
            f"{output.name} does not compile:\n{done.stderr.strip()}",
            hint="run `make setup`, or install libc6-dev (a static C library)"
            if missing
            else "see the compiler's output above",
            evidence=[path.parent for path in sources[:1]],
        )
    return output.read_bytes()
