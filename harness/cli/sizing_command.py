# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness sizing`: sweep reporting orders and delays, and say which to take."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.act.discover import VERBS
from harness.cli.carry_out import perform
from harness.cli.options import check_run_options, run_options, scenarios_directory
from harness.compare.sizing import OFF, Outcome, Setting, outcome
from harness.compare.sizing_table import print_sizing
from harness.errors import UNAVAILABLE, UsageError
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.report.sink import LastingSink
from harness.report.summary import RunSummary
from harness.run.invocation import prepare_images
from harness.run.plan import PlannedRun, choose_images, plan_runs
from harness.run.qemus import choose_one_qemu
from harness.scenario.selection import find_scenarios
from harness.units import parse_duration

SCENARIO = "sizing"
ORDERS = (9, 4, 2, 0)
"""2 MiB, as the kernel has it by default; 64 KiB; 16 KiB; single pages."""

_DELAYS = "the delay is a parameter from Linux 7.3 on"
_CAPACITY = (
    "Batch capacity is not swept: the driver takes it from its queue, 32 at most, and no kernel "
    "has a parameter for it."
)


@dataclass(frozen=True)
class _Sweep:
    settings: tuple[Setting | None, ...]
    """None: reporting off."""

    def name(self, index: int) -> str:
        setting = self.settings[index]
        return OFF if setting is None else setting.name


def execute(options: argparse.Namespace) -> int:
    """Run the sweep and print it; returns 0, or 69 if a setting could not be measured.

    Raises `UsageError`, `ScenarioFileError`, `RecordError`.
    """
    options.jobs = 1
    check_run_options(options)
    sweep = _sweep(options.orders, options.delays)
    images = choose_images(load_definitions(), options.image)
    if len(images) > 1:
        raise UsageError(
            "--image names several images; a sweep is of one guest kernel", hint="name one"
        )
    choice = choose_one_qemu(load_qemus(), options.qemu)
    directory = scenarios_directory(options)
    runs: list[PlannedRun] = []
    for number in range(1, options.repeat + 1):
        for index, setting in enumerate(sweep.settings):
            own = ("balloon.free_page_reporting=false",) if setting is None else setting.overrides
            words = [*options.overrides, *own]
            scenarios = find_scenarios([SCENARIO], VERBS, words, directory)
            (run,) = plan_runs(scenarios, images, 1, [choice])
            runs.append(replace(run, run_id=f"{sweep.name(index)}#{number}"))
    chosen = run_options(options)
    done = perform(
        options,
        chosen,
        runs,
        lambda _results, note: prepare_images(images, chosen, note),
        alone=True,
    )
    return _tell(sweep, done.summary.runs, LastingSink(sys.stdout))


def _sweep(orders: str | None, delays: str | None) -> _Sweep:
    """Read `--orders` and `--delays`. Raises `UsageError`."""
    try:
        chosen = [int(word) for word in orders.split(",")] if orders else list(ORDERS)
        waits = [parse_duration(word) for word in delays.split(",")] if delays else [None]
    except ValueError as error:
        raise UsageError(
            f"--orders and --delays take lists such as 9,4,0 and 2s,100ms: {error}"
        ) from error
    settings = [Setting(order, delay) for order in chosen for delay in waits]
    return _Sweep((None, *dict.fromkeys(settings)))


def _tell(sweep: _Sweep, runs: Sequence[RunSummary], output: LastingSink) -> int:
    found: dict[Setting | None, Outcome | None] = {
        setting: outcome(
            setting,
            [run for run in runs if run.run_id.partition("#")[0] == sweep.name(index)],
        )
        for index, setting in enumerate(sweep.settings)
    }
    off = found.pop(None)
    print(file=output)
    print_sizing(off, [each for each in found.values() if each is not None], output)
    without = [sweep.name(i) for i, s in enumerate(sweep.settings) if s in found and not found[s]]
    if without:
        print(f"Not measured: {', '.join(without)}; the table above says why.", file=output)
    if not any(setting.delay is not None for setting in found if setting is not None):
        print(f"Delay as the guest kernel has it: {_DELAYS} (--delays 2s,100ms).", file=output)
    print(_CAPACITY, file=output)
    return UNAVAILABLE if off is None or without else 0
