# SPDX-License-Identifier: Apache-2.0
"""From what the user names to a process and its monitor."""

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from harness.audit import target, virsh_monitor
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
