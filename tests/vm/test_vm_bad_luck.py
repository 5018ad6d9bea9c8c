# SPDX-License-Identifier: Apache-2.0
"""Bad luck in the middle of a run: the verdict is right, all measured is kept, nothing is left.

Each test runs the real command on a real guest and really does the harm.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import qmp, vm_directories
from running import Running, qemus_of, wait_until_gone

from harness.deadline import Deadline, wait_for
from harness.machine import qemu_probe
from harness.machine.pace import slowness

pytestmark = pytest.mark.vm

END_SECONDS = 3.0
"""From Ctrl-C to the end, on a usual machine."""

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


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "holding.yaml"
    path.write_text(HOLDING, encoding="utf-8")
    return path


@pytest.fixture
def running(scenario: Path, tmp_path: Path) -> Iterator[Running]:
    run = Running(tmp_path / "results", ["run", str(scenario), "--accel", ACCEL])
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


def test_qemu_killed_in_the_middle_is_a_miss(running: Running) -> None:
    running.wait_for_phase("hold")
    os.kill(running.qemu_pid(), signal.SIGKILL)
    summary = ends_as(running, "MISS", None, 69)
    assert "QEMU" in summary["reason"]


def test_ssh_cut_is_a_miss_for_the_guest_still_works(running: Running) -> None:
    running.wait_for_phase("hold")
    qmp(vm_of(running), "set_link", name="net0", up=False)
    summary = ends_as(running, "MISS", None, 69)
    assert "SSH" in summary["reason"]


def test_guest_panic_is_a_failure_that_names_it(running: Running) -> None:
    running.wait_for_phase("hold")
    qmp(vm_of(running), "inject-nmi")
    summary = ends_as(running, "FAIL", "guest-crash", 1)
    assert "panic" in summary["reason"].lower()


def test_guest_that_stops_answering_is_a_hang(running: Running) -> None:
    running.wait_for_phase("hold")
    qmp(vm_of(running), "stop")
    summary = ends_as(running, "FAIL", "guest-hang", 1)
    assert "answer" in summary["reason"]
    assert (running.results / "holding" / "autopsy.txt").exists()


def test_guest_that_does_not_get_a_step_done_is_a_hang(tmp_path: Path) -> None:
    """It answers over SSH; but no driver gives memory up within a millisecond."""
    path = tmp_path / "stuck.yaml"
    path.write_text(
        "name: stuck\ntitle: t\nguest: {memory: 512MiB, vcpus: 1}\n"
        "steps: [settle: {}, balloon: {to: 60%, deadline: 1ms}]\n"
    )
    run = Running(tmp_path / "results", ["run", str(path), "--accel", ACCEL])
    code, output = run.end()
    summary = run.summary()
    assert (summary["verdict"], summary["cause"], code) == ("FAIL", "guest-hang", 1), output
    assert "the guest runs but did not finish in time: waited 0.0 s for the balloon" in output
    evidence = (run.results / "stuck" / "autopsy.txt").read_text(encoding="utf-8")
    assert "Show Blocked State" in evidence


def run_to_its_end(tmp_path: Path, steps: str, *words: str, expect: str = "") -> Running:
    """A small guest with these steps."""
    path = tmp_path / "ending.yaml"
    path.write_text(
        "name: ending\ntitle: t\nguest: {memory: 256MiB, vcpus: 1}\n"
        f"steps: [settle: {{}}, {steps}]\n{expect}"
    )
    return Running(tmp_path / "results", ["run", str(path), "--accel", "tcg", *words])


def test_guest_that_resets_itself_without_a_word_has_crashed(tmp_path: Path) -> None:
    run = run_to_its_end(tmp_path, 'run: {command: "echo b >/proc/sysrq-trigger; sleep 30"}')
    code, output = run.end()
    assert code == 1, output
    summary = run.summary()
    assert (summary["verdict"], summary["cause"]) == ("FAIL", "guest-crash")
    assert "the guest reset the machine without a message" in summary["reason"]


def test_trouble_printed_by_the_last_step_is_found(tmp_path: Path) -> None:
    """The console is read until a mark of the guest's own is there."""
    words = "<2>BUG: Bad page state in process x  pfn:1234"
    run = run_to_its_end(
        tmp_path,
        f"run: {{command: \"echo '{words}' >/dev/kmsg\"}}",
        expect='expect: {console_findings: "== 0"}\n',
    )
    code, output = run.end()
    assert code == 1, output
    assert "BUG: Bad page state" in run.summary()["reason"]
    log = (run.results / "ending" / "harness.log").read_text(encoding="utf-8")
    assert "fpr-harness: the end" in log
    assert "starting QEMU: setpriv" in log


@pytest.mark.parametrize(
    ("name", "harm"),
    [("console.log", Path.unlink), ("discards.log", lambda path: path.write_bytes(b""))],
)
def test_log_that_is_deleted_or_cut_in_the_middle_is_a_miss(
    running: Running, name: str, harm: Callable[[Path], object]
) -> None:
    running.wait_for_phase("hold")
    harm(running.results / "holding" / name)
    summary = ends_as(running, "MISS", None, 69)
    assert name in summary["reason"]


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
    running: Running, scenario: Path, tmp_path: Path
) -> None:
    running.wait_for_phase("hold")
    running.signal(signal.SIGKILL)
    running.process.communicate()
    wait_until_gone(running.results)
    assert vm_directories(running.process.pid) != []
    following = Running(tmp_path / "next", ["run", str(scenario), "--accel", ACCEL])
    following.wait_for_phase("settle")
    assert vm_directories(running.process.pid) == []
    following.signal(signal.SIGTERM)
    following.end()


def test_a_thousand_runs_end_at_once_and_only_those_that_began_leave_a_directory(
    scenario: Path, tmp_path: Path
) -> None:
    words = ["run", str(scenario), "--accel", ACCEL, "--repeat", "1000"]
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
