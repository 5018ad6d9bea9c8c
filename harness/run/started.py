# SPDX-License-Identifier: Apache-2.0
"""Make the first event of an attempt: what runs, which harness version runs it, and when."""

import datetime
import platform

from harness import __version__
from harness.errors import HarnessError
from harness.image.build import BootFiles
from harness.machine.qemu import Qemu
from harness.machine.spec import Clock
from harness.record.events import RunStarted
from harness.run.plan import PlannedRun, RunOptions, recorded_plan


def run_started(
    run: PlannedRun,
    options: RunOptions,
    boot: BootFiles | HarnessError,
    qemu: Qemu | HarnessError,
    *,
    attempt: int,
    clock: Clock,
    t: float,
) -> RunStarted:
    """Describe an attempt; `t` is in seconds since it began."""
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=t)
    return RunStarted(
        t=t,
        scenario=run.scenario.name,
        image=run.image.name,
        qemu=run.qemu.name,
        qemu_version=qemu.version if isinstance(qemu, Qemu) else "",
        attempt=attempt,
        wall=began.isoformat(timespec="microseconds"),
        host={"kernel": platform.release(), "machine": platform.machine()},
        harness=__version__,
        plan=recorded_plan(run, options, boot, clock),
    )
