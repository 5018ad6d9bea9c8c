# SPDX-License-Identifier: Apache-2.0
"""However a run ends, all measured is kept and nothing is left.

Each test runs the real command on a real guest.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from holding import (
    ACCEL,
    ends_as,
    holding_run,
    holding_scenario,
    run_to_its_end,
    vm_of,
)
from leftovers import qmp, vm_directories
from running import Running, qemus_of, wait_until_gone

from harness.deadline import Deadline, wait_for
from harness.machine import qemu_probe
from harness.machine.pace import slowness

pytestmark = pytest.mark.vm

END_SECONDS = 5.0
"""From Ctrl-C to the end, on a usual machine, where it takes 2 s."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with holding_run(tmp_path) as run:
        yield run


def test_kept_guest_can_be_logged_in_to_and_is_released_early(tmp_path: Path) -> None:
    run = run_to_its_end(tmp_path, 'run: {command: "false"}', "--keep-failed", "5")
    kept = run.results / "ending" / "kept.txt"
    wait_for(lambda: kept.exists() or None, Deadline(90.0, "the guest to be kept"))
    login = shlex.split(kept.read_text(encoding="utf-8"))
    assert subprocess.run([*login, "uname"], capture_output=True, check=True).stdout == b"Linux\n"
    kept.unlink()
    code, output = run.end(seconds=20.0)
    assert code == 69, output
    assert "log in with" in output
    assert qemus_of(run.results) == []


A_TEST = """
import sys, time
from pathlib import Path
from running import Running
run = Running(Path(sys.argv[1]), sys.argv[2:])
run.wait_for_phase("hold")
print(run.process.pid, run.qemu_pid(), flush=True)
time.sleep(60)
"""


def test_what_an_interrupted_test_has_started_ends_too(tmp_path: Path) -> None:
    scenario = holding_scenario(tmp_path)
    words = [str(tmp_path / "results"), "run", str(scenario), "--accel", ACCEL]
    support = Path(__file__).parents[1] / "support"
    with subprocess.Popen(
        [sys.executable, "-c", A_TEST, *words],
        env={**os.environ, "PYTHONPATH": f"{support}:{support.parents[1]}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as test:
        assert test.stdout is not None
        harness, qemu = (Path("/proc") / pid for pid in test.stdout.readline().split())
        test.kill()
    # Sooner than the harness's next line of progress, which nobody would read.
    wait_for(
        lambda: None if harness.exists() or qemu.exists() else True,
        Deadline(2 * END_SECONDS * slowness(), "the harness and its QEMU to end"),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_ends_the_guest_and_reports(
    running: Running, number: signal.Signals
) -> None:
    running.wait_for_phase("hold")
    running.signal(number)
    ends_as(running, "MISS", None, 69)


def test_second_ctrl_c_ends_at_once(running: Running) -> None:
    running.wait_for_phase("hold")
    running.signal(signal.SIGINT)
    running.signal(signal.SIGINT)
    code, output = running.end(seconds=5.0)
    assert code == 69
    assert "Traceback" not in output
    assert any(event["kind"] == "sample" for event in running.events())


def test_killed_outright_it_leaves_no_qemu_and_the_next_run_sweeps_up(
    running: Running, tmp_path: Path
) -> None:
    running.wait_for_phase("hold")
    running.signal(signal.SIGKILL)
    running.process.communicate()
    wait_until_gone(running.results)
    assert vm_directories(running.process.pid) != []
    following = Running(
        tmp_path / "next", ["run", str(holding_scenario(tmp_path)), "--accel", ACCEL]
    )
    following.wait_for_phase("settle")
    assert vm_directories(running.process.pid) == []
    following.signal(signal.SIGTERM)
    following.end()


def test_a_thousand_runs_end_at_once_and_only_those_that_began_leave_a_directory(
    tmp_path: Path,
) -> None:
    words = ["run", str(holding_scenario(tmp_path)), "--accel", ACCEL, "--repeat", "1000"]
    run = Running(tmp_path / "results", words)
    run.wait_for_phase("settle")
    began = time.monotonic()
    run.signal(signal.SIGINT)
    status, output = run.end()
    # On a busy machine it gets its share of the processors.
    share = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert time.monotonic() - began < END_SECONDS * slowness() * share
    assert status == 69, output[-2000:]
    wait_until_gone(run.results)
    runs = json.loads((run.results / "summary.json").read_text(encoding="utf-8"))["runs"]
    assert [one["verdict"] for one in runs] == ["MISS"] * 1000
    booted = {event["run"] for event in run.events() if event["kind"] == "phase"}
    assert {path.name for path in run.results.iterdir() if path.is_dir()} == booted
    assert 0 < len(booted) < 10


def test_qemu_cannot_start_a_program_even_where_it_is_told_to(
    running: Running, tmp_path: Path
) -> None:
    """What a guest that has taken it over could do as well: its seccomp filter is on."""
    running.wait_for_phase("hold")
    pid = running.qemu_pid()
    if not qemu_probe.find_qemu(None).denied:
        pytest.skip("this QEMU has no seccomp filter")
    for thread in Path(f"/proc/{pid}/task").iterdir():
        assert "\nSeccomp:\t2\n" in (thread / "status").read_text(encoding="ascii")
    escaped = tmp_path / "escaped"
    with contextlib.suppress(AssertionError, ValueError, OSError):
        qmp(vm_of(running), "migrate", uri=f"exec:cat >{escaped}")
    running.end()
    assert not escaped.exists()
