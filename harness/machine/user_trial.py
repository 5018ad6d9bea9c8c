# SPDX-License-Identifier: Apache-2.0
"""Try whether a QEMU can run as another user, and whether the harness can then still watch it."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from harness.deadline import Deadline
from harness.machine.qemu_ask import BARE_OPTIONS, PROBE_SECONDS, end_probe, read_lines
from harness.machine.qemu_user import QemuUser
from harness.machine.reached_program import reached_program


@lru_cache
def trouble_as(user: QemuUser, qemu: Path) -> str:
    """Start this QEMU as that user, without a guest, and look at it as a run does.

    Return what does not work; "": all does. A container's root often may not look at the
    processes of others (CAP_SYS_PTRACE), or not become another user.
    """
    try:
        with reached_program(user, qemu) as (program, descriptors):
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *user.words, "--", str(program), *BARE_OPTIONS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
            )
    except OSError as error:
        return f"it cannot be started as {user.name}: {error.strerror}"
    assert process.stdout is not None
    try:
        said = ""
        deadline = Deadline(PROBE_SECONDS, f"{qemu} to start as {user.name}")
        for line in read_lines(process.stdout, deadline):
            said = line.decode("utf-8", "replace").strip()
            if '"QMP"' in said:
                return _unwatchable(process.pid)
        return f"as {user.name} it says {said[:200] or 'nothing'}"
    finally:
        end_probe(process)


def _unwatchable(pid: int) -> str:
    """Read what the instruments read of QEMU; return what cannot be read."""
    for name in ("pagemap", "smaps", "fd/0"):
        path = Path(f"/proc/{pid}/{name}")
        try:
            if name.startswith("fd"):
                path.readlink()
            else:
                with path.open("rb") as file:
                    file.read(8)
        except OSError as error:
            return f"this process may not read {path} of another user's QEMU: {error.strerror}"
    try:
        os.kill(pid, 0)
    except OSError as error:
        return f"this process may not end another user's QEMU: {error.strerror}"
    return ""
