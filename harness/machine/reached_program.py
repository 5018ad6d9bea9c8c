# SPDX-License-Identifier: Apache-2.0
"""How another user starts a QEMU that lies where it gets by no path."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.image.cache import cache_directory
from harness.machine.qemu_user import QemuUser


@contextmanager
def reached_program(user: QemuUser | None, program: Path) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Yield the path by which that user starts the program, and descriptors to start it with.

    A build in root's cache has all that it needs beside itself, and finds it by the path of its own
    script. So it is started through a descriptor of its directory, past the directories above
    (proc(5), /proc/PID/fd). Raises `OSError`.
    """
    place = program.parent
    ours = place.resolve().is_relative_to(cache_directory().resolve())
    if user is None or not ours or user.reaches(place):
        yield program, ()
        return
    # It was made in private (mkdtemp(3)); its files are those of public packages.
    place.chmod(0o755)
    descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}") / program.name, (descriptor,)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
