# SPDX-License-Identifier: Apache-2.0
"""The monitor: answers, refusals, silence and death, each within its deadline."""

import os
import signal
import threading
import time

import pytest
from machine_fakes import Bench

from harness.deadline import Deadline
from harness.errors import DeadlineError, QemuGoneError, QmpError


def test_answer_refusal_and_human_command(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        assert vm.monitor.execute("query-status")["status"] == "internal-error"
        with pytest.raises(QmpError, match=r"nonsense was refused: .*not been found"):
            vm.monitor.execute("nonsense")
        text = vm.monitor.human("info usernet")
        assert text.startswith("Hub -1 (net0):\n")
        assert "\r" not in text


def test_silence_ends_at_the_commands_deadline(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(QmpError, match=r"query-status: no answer within 0\.5 s"):
            vm.monitor.execute("query-status", timeout=0.5)
        assert time.monotonic() - began < 3.0


def test_death_in_the_middle_of_a_command_is_told_as_qemus(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (vm.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(QemuGoneError, match="SIGKILL"):
            vm.monitor.execute("query-status", timeout=30.0)
        assert time.monotonic() - began < 5.0


def test_event_that_came_before_the_wait_counts_once(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        assert vm.monitor.wait_event({"RESUME"}, Deadline(5.0, "RESUME"))["event"] == "RESUME"
        with pytest.raises(DeadlineError, match="last seen: RESUME"):
            vm.monitor.wait_event({"RESUME"}, Deadline(0.3, "a second RESUME"))


def test_wait_for_an_event_ends_with_qemu(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        threading.Timer(0.3, os.kill, (vm.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(QemuGoneError):
            vm.monitor.wait_event({"SUSPEND"}, Deadline(30.0, "SUSPEND"))
        assert time.monotonic() - began < 3.0


def test_monitor_that_greets_and_never_answers(bench: Bench) -> None:
    bench.monkeypatch.setattr("harness.machine.process.QUIT_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(QmpError, match="no answer within"):
        bench.launch("tcg", tcg="mute")
    assert time.monotonic() - began < 20.0


def test_commands_of_several_threads_do_not_mix(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        wrong: list[object] = []

        def ask() -> None:
            for _ in range(20):
                if "enabled" not in vm.monitor.execute("query-kvm"):
                    wrong.append("query-kvm")
                if "status" not in vm.monitor.execute("query-status"):
                    wrong.append("query-status")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
