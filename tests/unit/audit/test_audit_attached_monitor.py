# SPDX-License-Identifier: Apache-2.0
"""The monitor of somebody else's QEMU: it asks, and does nothing else."""

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.audit import attached_monitor
from harness.audit.attached_monitor import AttachedMonitor
from harness.audit.questions import MOST_ADDRESSES, check_harmless
from harness.errors import QmpError

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


@pytest.fixture
def place() -> Iterator[Path]:
    """Short paths, for sockets."""
    with tempfile.TemporaryDirectory(prefix="fprt") as directory:
        yield Path(directory)


def _serve(listener: socket.socket, seen: list[str]) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(json.dumps(GREETING).encode() + b"\n")
        # The client's messages have no line end, and it sends one at a time.
        while sent := connection.recv(4096):
            message = json.loads(sent)
            seen.append(message["execute"])
            answer = {"return": "Host virtual address\r\n"}
            answer |= {"id": message["id"]} if "id" in message else {}
            connection.sendall(json.dumps(answer).encode() + b"\n")


@contextlib.contextmanager
def served(path: Path) -> Iterator[list[str]]:
    """A QEMU that answers everything, and the commands that it has seen."""
    seen: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=_serve, args=(listener, seen), daemon=True)
        thread.start()
        yield seen
        thread.join(10.0)


def test_one_connection_asks_and_is_closed(place: Path) -> None:
    with served(place / "qmp") as seen:
        with AttachedMonitor(place / "qmp") as monitor:
            assert monitor.peer_pid == os.getpid()
            assert monitor.human("info ramblock") == "Host virtual address\n"
        assert seen == ["qmp_capabilities", "human-monitor-command"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("stop", None),
        ("device_add", {"driver": "virtio-balloon-pci"}),
        ("qom-set", {"path": "/machine", "property": "x", "value": 1}),
        ("human-monitor-command", {"command-line": "stop"}),
        ("human-monitor-command", {"command-line": "infostop"}),
        ("human-monitor-command", None),
        ("balloon", {"value": 1}),
        ("quit", None),
    ],
)
def test_what_could_change_a_vm_is_not_sent(
    command: str, arguments: dict[str, object] | None
) -> None:
    with pytest.raises(ValueError, match="does not send"):
        check_harmless(command, arguments)


def test_host_addresses_are_asked_for_a_limited_number_of_times(place: Path) -> None:
    with served(place / "qmp"), AttachedMonitor(place / "qmp") as monitor:
        for _number in range(MOST_ADDRESSES):
            monitor.human("gpa2hva 0x0")
        with pytest.raises(QmpError, match="more than 64 regions"):
            monitor.human("gpa2hva 0x0")


def test_a_socket_in_use_is_told_from_one_that_is_dead(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached_monitor, "GREETING_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "busy"))
        listener.listen(1)
        with pytest.raises(QmpError, match="another client is connected there"):
            AttachedMonitor(place / "busy")
    with pytest.raises(QmpError, match="is no socket"):
        AttachedMonitor(place)
    with pytest.raises(QmpError, match="nobody listens"):
        AttachedMonitor(place / "busy")
    with pytest.raises(QmpError, match="there is no QMP socket"):
        AttachedMonitor(place / "none")


def test_a_path_too_long_for_an_address_is_reached(place: Path) -> None:
    deep = place / ("d" * 100)
    deep.mkdir()
    here = Path.cwd()
    os.chdir(deep)
    try:
        with served(Path("qmp")), AttachedMonitor(deep / "qmp"):
            pass
    finally:
        os.chdir(here)
