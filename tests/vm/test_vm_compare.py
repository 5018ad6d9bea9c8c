# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness compare` with real guests: in turn, interrupted, gone on with, and mailed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from leftovers import vm_directories
from running import END_SECONDS, Running, qemus_of

from harness.compare.series_mail import ROWS
from harness.deadline import Deadline, wait_for
from harness.machine.pace import slowness
from harness.report.mail import COLUMNS

pytestmark = pytest.mark.vm

COMPARED = """\
name: compared
title: Each number of the table for a patch series
guest: {memory: 512MiB, vcpus: 1}
steps:
  - settle: {}
  - fault_rate: {duration: 100ms}
  - fault_rate: {pages: file, duration: 100ms}
  - fault_rate: {by: thread, pages: file, duration: 100ms}
  - churn: {size: 40%, hold: 0s}
  - settle: {}
  - audit: {}
"""

TAKEN = (
    "reclaimed_bytes",
    "footprint_gib_minutes",
    "faults_process_base_on_per_second",
    "faults_process_file_on_per_second",
    "faults_thread_file_on_per_second",
)
"""By every run. How soon memory came back is absent where all of it did before the first look."""


def sides(directory: Path) -> list[str]:
    (directory / "compared.yaml").write_text(COMPARED)
    words = ["compare", "base", "set:guest.vcpus=2", str(directory / "compared.yaml")]
    return [*words, "--accel", "tcg", "--runs", "1"]


def judged(run: Running) -> list[str]:
    return [e["run"] for e in run.events() if e["kind"] == "judged" and e["verdict"] == "DONE"]


def test_an_interrupted_comparison_goes_on_and_fills_the_table_for_a_series(tmp_path: Path) -> None:
    first = Running(tmp_path / "results", sides(tmp_path))
    deadline = Deadline(END_SECONDS * slowness(), "a run of A to end")
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
    lines = mail_of(second.results)
    assert max(map(len, lines)) <= COLUMNS
    assert any(line.startswith("B:    set:guest.vcpus=2 (Linux 6.") for line in lines)
    for measure in TAKEN:
        (row,) = [line for line in lines if line.startswith(ROWS[measure])]
        # The host's share comes in whole blocks, so both sides' one value is often the same.
        assert row.endswith(("1 and 1 runs ?", "same  in all runs")), row
        assert row.removeprefix(ROWS[measure]).split()[0] not in ("-", "0", "0B"), row


def mail_of(results: Path) -> list[str]:
    words = [sys.executable, "-m", "harness", "mail", str(results)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()
