# SPDX-License-Identifier: Apache-2.0
"""Keep the guest of a run that did not pass, so that someone can log in (`--keep-failed`)."""

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
"""File that exists while a guest is kept and holds its log-in command; removing it ends the guest.
"""

LOOK_SECONDS = 0.5


def keep(
    vm: VirtualMachine,
    record: RunRecord,
    directory: Path,
    seconds: float,
    cancelled: threading.Event,
) -> None:
    """Keep the guest up for `seconds`, or until `kept.txt` is removed, QEMU ends or the run stops.

    Raises `RecordError`.
    """
    if not seconds or not vm.alive:
        return
    until = Deadline(seconds, "the kept guest to be released")
    kept = directory / KEPT_NAME
    login = shlex.join(vm.ssh_argv)
    # Without the file nobody could release the guest early, so then it is not kept at all.
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
