# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness replay`: run what a bundle holds, and say what differs from there."""

import argparse
from collections.abc import Callable
from pathlib import Path

from harness.cli.carry_out import Boots, CarriedOut, perform
from harness.cli.options import check_paths, run_options
from harness.cli.replay_recording import replay_recording
from harness.errors import UsageError
from harness.record.bundle_manifest import BundleManifest
from harness.record.bundle_read import Bundle
from harness.run.bundling import differences, plan_replay, replay_boots
from harness.run.invocation import prepare_images
from harness.safe_text import safe_line


def execute(options: argparse.Namespace) -> int:
    """Check the bundle, run it, compare; returns the exit status of the verdicts. A directory is
    that of a recorded run.

    Raises `UsageError`, `ScenarioFileError`, and `RecordError` for a bundle that was changed.
    """
    if options.bundle.is_dir():
        return replay_recording(options)
    if options.gdb is not None:
        raise UsageError(
            "--gdb needs a recording", hint="name the directory of a run made with `run --record`"
        )
    if options.modules is not None and options.kernel is None:
        raise UsageError("--modules needs --kernel", hint="name the kernel of these modules")
    check_paths(options)
    bundle = Bundle(options.bundle)
    runs = plan_replay(bundle, options.kernel, options.qemu)
    options.accel = options.accel or _accel(bundle.manifest)
    # What could not have the virtual clock there cannot have it here.
    virtual = any(run.clock == "virtual" for run in bundle.manifest.runs)
    options.clock = "auto" if virtual else "real"
    chosen = run_options(options)

    def boots_for(results: Path, note: Callable[[str], None]) -> Boots:
        if options.kernel is not None:
            return prepare_images(
                {run.image.name: run.image for run in runs}.values(), chosen, note
            )
        return replay_boots(bundle, runs, results, note)

    done = perform(options, chosen, runs, boots_for)
    print()
    for line in differences(bundle, runs, done.boots, done.qemus):
        print(f"differs: {safe_line(line)}")
    _tell_verdicts(bundle.manifest, done)
    return done.status


def _accel(manifest: BundleManifest) -> str:
    """TCG is everywhere; KVM is not."""
    return "tcg" if {run.accel for run in manifest.runs} == {"tcg"} else "auto"


def _tell_verdicts(manifest: BundleManifest, done: CarriedOut) -> None:
    here = {run.run_id: run for run in done.summary.runs}
    for run in manifest.runs:
        there = _word(run.verdict, run.cause)
        found = here.get(run.run)
        now = _word(found.verdict, found.cause) if found is not None else "no run"
        if found is not None and found.clock not in (None, run.clock):
            print(safe_line(f"differs: clock of {run.run}: {run.clock} there, {found.clock} here"))
        same = "as there" if now == there else f"{there} there"
        print(safe_line(f"{run.run}: {now}, {same}"))


def _word(verdict: str, cause: str | None) -> str:
    return f"{verdict} {cause}" if cause else str(verdict)
