# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness compare` with real guests: in turn, interrupted, and gone on with."""

import signal
from pathlib import Path

import pytest
from leftovers import vm_directories
from running import END_SECONDS, Running, qemus_of
from short_scenario import short_scenario

from harness.deadline import Deadline, wait_for
from harness.machine.pace import slowness

pytestmark = pytest.mark.vm


def sides(directory: Path) -> list[str]:
    words = ["compare", "base", "set:guest.vcpus=1", short_scenario(directory)]
    return [*words, "--accel", "tcg", "--runs", "1"]


def judged(run: Running) -> list[str]:
    return [e["run"] for e in run.events() if e["kind"] == "judged" and e["verdict"] == "PASS"]


def test_an_interrupted_comparison_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    first = Running(tmp_path / "results", sides(tmp_path))
    deadline = Deadline(END_SECONDS * slowness(), "a run of A to pass")
    wait_for(lambda: True if judged(first) else None, deadline, interval=0.1)
    first.signal(signal.SIGINT)
    code, output = first.end()
    assert code == 69, output
    assert f"--results {tmp_path / 'results'} goes on" in output
    assert qemus_of(first.results) == []
    assert vm_directories(first.process.pid) == []

    second = Running(tmp_path / "results", sides(tmp_path))
    code, output = second.end()
    assert code == 69, output
    assert "Too few runs to say more: a side has 1" in output
    runs = judged(second)
    assert [run.partition("+")[2][0] for run in runs] == list("AB")
    assert len(set(runs)) == 2
