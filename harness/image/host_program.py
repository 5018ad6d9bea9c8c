# SPDX-License-Identifier: Apache-2.0
"""Programs of the host that images are made with: each has a deadline, and ends with the harness.

`setpriv --pdeathsig` (util-linux) has the kernel kill a program when the thread that started it
ends, as it does for QEMU.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.deadline import Deadline
from harness.stopping import LOOK_SECONDS, check_stop

_TIED = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True)
class Output:
    """What a program printed, and its exit status (negative: the signal that ended it)."""

    status: int
    stdout: str
    stderr: str


def run_program(
    command: Sequence[str],
    seconds: float,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
) -> Output:
    """Run to the end, in a group of its own and in the C locale, for what it says is read.

    It reads the file `stdin`, or nothing.

    Raises `FileNotFoundError` and other `OSError`s where it cannot be started, `DeadlineError`, and
    `InterruptedRunError` (see `harness.stopping`); it has ended then, and all that it started.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "not installed", command[0])
    deadline = Deadline(seconds, f"{command[0]} {command[-1]} to end")
    process = subprocess.Popen(
        [*_TIED, *command],
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        while True:
            check_stop(f"{command[0]} ran")
            with contextlib.suppress(subprocess.TimeoutExpired):
                stdout, stderr = process.communicate(timeout=LOOK_SECONDS)
                return Output(process.returncode, stdout, stderr)
            deadline.check()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
