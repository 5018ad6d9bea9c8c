# SPDX-License-Identifier: Apache-2.0
"""From what the user names to a process and its monitor."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.audit import target, virsh_monitor
from harness.audit.attached_monitor import AttachedMonitor
from harness.audit.qemu_list import QemuProcess
from harness.audit.qemu_words import read_words
from harness.audit.questions import MOST_ADDRESSES
from harness.audit.target import Named, connect
from harness.audit.virsh_monitor import VirshMonitor
from harness.errors import ObserveError, QmpError, UsageError


def a_qemu(command: str) -> QemuProcess:
    words = read_words(["qemu-system-x86_64", *command.split()])
    return QemuProcess(os.getpid(), words, 0, "me", readable=True)


@pytest.fixture
def virsh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain `web`, of which another host's libvirt tells."""
    answers: dict[str, Any] = {
        "query-cpus-fast": [{"thread-id": os.getpid()}],
        "query-name": {"name": "web"},
        "human-monitor-command": "",
    }

    def run(words: Sequence[str], _domain: str, _seconds: float) -> dict[str, Any]:
        return {"return": answers[json.loads(words[-1])["execute"]]}

    monkeypatch.setattr(virsh_monitor, "run_virsh", run)


@pytest.mark.usefixtures("virsh")
@pytest.mark.parametrize("here", [None, "-name mail"])
def test_a_thread_number_of_another_host_is_no_vm_here(
    monkeypatch: pytest.MonkeyPatch, here: str | None
) -> None:
    monkeypatch.setattr(target, "qemu_of", lambda _n: None if here is None else a_qemu(here))
    with pytest.raises(ObserveError, match=r"calls itself 'web' .* nothing of it here"):
        connect(Named(domain="web"))


@pytest.mark.usefixtures("virsh")
def test_the_process_of_a_domain_is_that_of_its_first_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target, "qemu_of", lambda _n: a_qemu("-name guest=web"))
    assert connect(Named(domain="web"))[0].words.name == "web"


@pytest.mark.usefixtures("virsh")
def test_libvirt_too_is_asked_for_a_limited_number_of_addresses() -> None:
    monitor = VirshMonitor("web")
    for _number in range(MOST_ADDRESSES):
        monitor.human("gpa2hva 0x0")
    with pytest.raises(QmpError, match="more than 64 regions"):
        monitor.human("gpa2hva 0x0")


@pytest.mark.parametrize("name", ["", "--all", "-c"])
def test_what_virsh_would_take_for_an_option_is_no_domain(name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a domain"):
        connect(Named(domain=name))


def test_a_relative_socket_of_a_qemu_that_left_its_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = "-daemonize -qmp unix:not-here.sock,server=on,wait=off"
    monkeypatch.setattr(target, "find_pid", lambda _pid: a_qemu(command))
    with pytest.raises(QmpError, match=r"not-here\.sock, which is not in its directory") as told:
        connect(Named(pid=1))
    assert "--qmp DIRECTORY/not-here.sock" in told.value.hint


def test_a_qemu_without_a_socket_says_how_to_give_it_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "find_pid", lambda _pid: a_qemu(""))
    with pytest.raises(QmpError, match="names no QMP socket") as told:
        connect(Named(pid=1))
    assert "-qmp unix:PATH,server=on,wait=off" in told.value.hint


class Monitor:
    """Of a QEMU that listens where another did before."""

    peer_pid = 4711
    path = Path("/run/qmp.sock")
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_socket_that_another_qemu_has_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its addresses are not those of the process that was named."""
    monitor = Monitor()
    command = "-qmp unix:/run/qmp.sock,server=on,wait=off"
    monkeypatch.setattr(target, "find_pid", lambda _pid: a_qemu(command))
    monkeypatch.setattr(target, "AttachedMonitor", lambda _path: monitor)
    with pytest.raises(QmpError, match="but process 4711 answers there"):
        connect(Named(pid=1))
    assert monitor.closed


def test_a_qemu_that_is_stopped_is_not_said_to_be_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(_path: Path) -> AttachedMonitor:
        raise QmpError("QEMU did not greet")

    with subprocess.Popen(["sleep", "60"]) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        qemu = replace(a_qemu("-qmp unix:/run/qmp.sock,server=on"), pid=stopped.pid)
        monkeypatch.setattr(target, "find_pid", lambda _pid: qemu)
        monkeypatch.setattr(target, "AttachedMonitor", silent)
        try:
            with pytest.raises(QmpError, match="is stopped") as told:
                connect(Named(pid=1))
        finally:
            stopped.kill()
    assert f"kill -CONT {stopped.pid}" in told.value.hint
