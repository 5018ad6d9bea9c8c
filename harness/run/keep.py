# SPDX-License-Identifier: Apache-2.0
"""A guest that did not pass, kept up for somebody to look at (`--keep-failed`)."""

import contextlib
import shlex
import threading
from pathlib import Path

from harness.act.run_record import RunRecord
from harness.deadline import Deadline
from harness.machine.vm import VirtualMachine
from harness.record.events import PhaseStarted
from harness.run_log import escaped

KEPT_NAME = "kept.txt"
"""Is there while a guest is kept, and says how to log in to it. Removing it releases the guest."""

LOOK_SECONDS = 0.5


def keep(
    vm: VirtualMachine,
    record: RunRecord,
    directory: Path,
    seconds: float,
    cancelled: threading.Event,
) -> None:
    """Leave the guest up for `seconds`, or until its file is removed, it ends, or the run is
    stopped. Raises `RecordError`."""
    if not seconds or not vm.alive:
        return
    until = Deadline(seconds, "somebody to look at the guest")
    kept = directory / KEPT_NAME
    login = shlex.join(vm.ssh_argv)
    # Without the file it could not be released early; it is then not waited for either.
    with contextlib.suppress(OSError):
        kept.write_text(f"{login}\n", encoding="utf-8", errors="backslashreplace")
    record.add(
        PhaseStarted(
            record.now(),
            "kept",
            f"for {seconds / 60:g} min; log in with\n  {login}\n"
            f"and end it earlier with\n  rm {shlex.quote(escaped(str(kept)))}",
        )
    )
    while not until.passed and vm.alive and kept.exists():
        if cancelled.wait(LOOK_SECONDS):
            break
    with contextlib.suppress(OSError):
        kept.unlink(missing_ok=True)
