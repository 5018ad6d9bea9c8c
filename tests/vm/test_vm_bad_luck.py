# SPDX-License-Identifier: Apache-2.0
"""Bad luck in the middle of a run: the verdict is right, all measured is kept, nothing is left.

Each test runs the real command on a real guest and really does the harm.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holding import ACCEL, ends_as, holding_run, run_to_its_end, vm_of
from leftovers import qmp
from running import Running

from harness.machine.pace import slowness

pytestmark = pytest.mark.vm


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with holding_run(tmp_path) as run:
        yield run


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


def test_job_that_was_stopped_as_a_whole_has_no_hung_guest(tmp_path: Path) -> None:
    """Like a container that is paused, for longer than the step's deadline."""
    path = tmp_path / "paused.yaml"
    path.write_text(
        "name: paused\ntitle: t\nguest: {memory: 1GiB}\n"
        "steps: [settle: {}, balloon: {to: 60%, deadline: 6s}, audit: {}]\n"
    )
    run = Running(tmp_path / "results", ["run", str(path), "--accel", ACCEL])
    run.wait_for_phase("balloon")
    qemu = run.qemu_pid()
    os.kill(qemu, signal.SIGSTOP)
    run.signal(signal.SIGSTOP)
    time.sleep(6.0 * slowness() + 6.0)
    os.kill(qemu, signal.SIGCONT)
    run.signal(signal.SIGCONT)
    code, output = run.end()
    # Where half of the time nobody looked, that is a MISS.
    assert code in (0, 69), output
    assert "guest-hang" not in output


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


def test_trouble_is_found_though_the_guest_keeps_it_off_its_console(tmp_path: Path) -> None:
    path = tmp_path / "hidden.yaml"
    path.write_text(
        "name: hidden\ntitle: t\nguest: {memory: 128MiB, cmdline: quiet}\n"
        "steps: [{run: {command: \"echo '<4>BUG: Bad page map in process x' >/dev/kmsg\"}}]\n"
    )
    run = Running(tmp_path / "results", ["run", str(path), "--accel", ACCEL])
    code, output = run.end()
    assert code == 1, output
    assert "BUG: Bad page map" in run.summary()["reason"]
    texts = [(run.results / "hidden" / name).read_text() for name in ("kernel.log", "console.log")]
    assert ["Bad page map" in text for text in texts] == [True, False]


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
