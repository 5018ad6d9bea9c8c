# SPDX-License-Identifier: Apache-2.0
"""A run of the real command that holds memory for some seconds, for something to happen to it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leftovers import vm_directories
from running import Running, qemus_of, wait_until_gone

ACCEL = os.environ.get("FPR_ACCEL", "tcg")
"""tests/kvm has all of this under KVM too."""

HOLDING = """\
name: holding
title: Holds memory long enough for something to go wrong
about: A guest that holds a quarter of its memory for some seconds.
reference: none
tags: []
guest: {memory: 512MiB, vcpus: 1, cmdline: unknown_nmi_panic}
steps:
  - settle: {deadline: 60s}
  - audit: {name: before}
  - churn: {size: 25%, hold: 4s}
  - settle: {}
  - audit: {}
expect:
  reclaimed_fraction: ">= 0.9"
"""


def holding_scenario(directory: Path) -> Path:
    """The scenario's file."""
    path = directory / "holding.yaml"
    path.write_text(HOLDING, encoding="utf-8")
    return path


def start_holding(directory: Path, results: str = "results") -> Running:
    words = ["run", str(holding_scenario(directory)), "--accel", ACCEL]
    return Running(directory / results, words)


@contextmanager
def holding_run(directory: Path) -> Iterator[Running]:
    """The run; at the end nothing of it may be left."""
    run = Running(
        directory / "results", ["run", str(holding_scenario(directory)), "--accel", ACCEL]
    )
    yield run
    if run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()
    wait_until_gone(run.results)
    assert vm_directories(run.process.pid) == []


def vm_of(running: Running) -> Path:
    """The directory of the run's VM."""
    (directory,) = vm_directories(running.process.pid)
    return directory


def ends_as(running: Running, verdict: str, cause: str | None, status: int) -> dict[str, Any]:
    """The run ended with this verdict, and what was measured before is on disk."""
    code, output = running.end()
    assert "Traceback" not in output
    summary = running.summary()
    assert (summary["verdict"], summary.get("cause"), code) == (verdict, cause, status), output
    kinds = [event["kind"] for event in running.events()]
    assert kinds[-1] == "judged"
    assert kinds.count("sample") > 5
    assert kinds.count("audited") == 1
    assert qemus_of(running.results) == []
    assert (running.results / "junit.xml").exists()
    return summary


def run_to_its_end(tmp_path: Path, steps: str, *words: str, expect: str = "") -> Running:
    """A small guest with these steps."""
    path = tmp_path / "ending.yaml"
    path.write_text(
        "name: ending\ntitle: t\nguest: {memory: 256MiB, vcpus: 1}\n"
        f"steps: [settle: {{}}, {steps}]\n{expect}"
    )
    return Running(tmp_path / "results", ["run", str(path), "--accel", "tcg", *words])
