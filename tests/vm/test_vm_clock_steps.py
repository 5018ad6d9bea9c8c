# SPDX-License-Identifier: Apache-2.0
"""A host whose clock is set during a run: the verdict, the measures and the waits are the same.

An object preloaded into the harness and its QEMU steps CLOCK_REALTIME for them alone.
"""

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until_gone

from harness.image.compile import SHARED, compile_c

pytestmark = pytest.mark.vm

SOURCE = Path(__file__).parents[1] / "support" / "step_clock.c"

SCENARIO = """\
name: stepping
title: Gives memory back while the host's clock is set
guest: {memory: 512MiB, vcpus: 1}
steps:
  - settle: {}
  - churn: {size: 50%, hold: 1s}
  - settle: {}
  - audit: {}
expect:
  reclaimed_fraction: ">= 0.9"
  reported_resident_bytes: "== 0"
"""

EVERY_SECONDS = 1.5
STEPS = (3600, -3600, 86400, 0, -86400 * 400, 5, -5, 0)
"""Seconds off the true time, one after the other, over and over."""


class Clock:
    """The wall clock of what is started with it."""

    def __init__(self, directory: Path) -> None:
        compile_c([SOURCE], directory / "step_clock.so", SHARED)
        self._file = directory / "offset"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(directory / "step_clock.so"),
            "STEP_CLOCK": str(self._file),
        }

    def set(self, seconds: int) -> None:
        """Be so many seconds off from now on."""
        # In place: it is mapped.
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, struct.pack("q", seconds), 0)
        os.close(descriptor)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that is set every second and a half."""
    made = Clock(tmp_path)
    over = threading.Event()

    def set_it() -> None:
        number = 0
        while not over.wait(EVERY_SECONDS):
            made.set(STEPS[number % len(STEPS)])
            number += 1

    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=set_it)
    thread.start()
    yield made
    over.set()
    thread.join()


def settle_seconds(events: list[dict[str, Any]]) -> list[float]:
    return [event["seconds"] for event in events if event["kind"] == "settled"]


@pytest.mark.usefixtures("clock")
def test_a_run_is_judged_as_on_any_host(tmp_path: Path) -> None:
    path = tmp_path / "stepping.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    began = time.monotonic()
    run = Running(tmp_path / "results", ["run", str(path), "--accel", "tcg"])
    try:
        status, output = run.end()
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
        wait_until_gone(run.results)
    took = time.monotonic() - began
    summary = run.summary()
    assert (summary["verdict"], status) == ("PASS", 0), output
    assert all(0 <= seconds < took for seconds in settle_seconds(run.events()))
    moments = [event["t"] for event in run.events()]
    assert all(0 <= moment < took for moment in moments)
    assert summary["measures"]["discarded_bytes"] >= summary["measures"]["reclaimed_bytes"] * 0.9
