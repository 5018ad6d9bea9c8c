# SPDX-License-Identifier: Apache-2.0
"""Run the victim on one hostile guest in a process of its own, whose memory is then known.

    python tests/hostile/one_run.py NAME DIRECTORY

prints a line of JSON: verdict, reason, seconds of the wait it ended in, bytes the process held.
"""

import contextlib
import json
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from misbehaviours import hostile_archive

from harness.act.discover import VERBS
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine import console
from harness.machine.qemu_probe import find_qemu
from harness.machine.vm import VirtualMachine
from harness.record.events import Broke, Event, PhaseStarted
from harness.run import runner
from harness.run.plan import RunOptions, plan_runs
from harness.run.runner import Bench, run_scenario
from harness.scenario.load import load_scenarios

VICTIM = Path(__file__).with_name("victim.yaml")

console.MAX_BYTES = 256 << 10
"""The serial line of an emulated guest brings some MB a minute: too few for the true limit."""


@contextlib.contextmanager
def no_witness(_shell: object, *, stays: bool) -> Iterator[SimpleNamespace]:  # noqa: ARG001
    """In place of the runner's: it would rightly say that the guest's shell is not the image's."""
    yield SimpleNamespace(testify=lambda *_: None)


vars(runner)["second_witness"] = no_witness


def main(name: str, directory: Path) -> None:
    image = load_definitions()["bookworm"]
    boot = ensure_image(image, progress=lambda text: print(text, file=sys.stderr))
    boot = replace(boot, more=(hostile_archive(directory / "hostile.cpio"),))
    scenarios = load_scenarios(VICTIM, VERBS, [f"guest.cmdline=fpr.misbehave={name}"])
    (run,) = plan_runs(scenarios, [image], repeat=1)
    began = time.monotonic()
    phase, waited, pace = began, 0.0, 1.0

    boots = vars(runner)["launch"]

    def launch(*arguments: Any, **options: Any) -> VirtualMachine:
        """The wait for what is asked first begins when the guest is up; no event says so."""
        nonlocal phase, pace
        vm: VirtualMachine = boots(*arguments, **options)
        phase, pace = time.monotonic(), vm.pace
        return vm

    vars(runner)["launch"] = launch

    def hear(_run_id: str, event: Event) -> None:
        nonlocal phase, waited
        if isinstance(event, PhaseStarted):
            phase = time.monotonic()
        elif isinstance(event, Broke):
            waited = time.monotonic() - phase

    qemus = {run.qemu.name: find_qemu(None)}
    bench = Bench(RunOptions(accel="tcg"), directory, qemus, hear, threading.Event())
    judged = run_scenario(run, boot, bench)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "verdict": str(judged.verdict),
                "reason": judged.reason,
                "waited": waited,
                "pace": pace,
                "seconds": time.monotonic() - began,
                "held": held,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
