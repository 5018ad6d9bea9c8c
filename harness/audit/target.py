# SPDX-License-Identifier: Apache-2.0
"""Finds the QEMU that the user names, and connects to its QMP."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.audit.attached_monitor import AttachedMonitor
from harness.audit.qemu_list import (
    QemuProcess,
    find_name,
    find_pid,
    list_qemus,
    socket_paths,
)
from harness.audit.virsh_monitor import VirshMonitor
from harness.errors import HarnessError, ObserveError, QmpError
from harness.machine.interfaces import Monitor


@dataclass(frozen=True)
class Named:
    """How the user names a VM: by exactly one of these."""

    name: str | None = None
    pid: int | None = None
    qmp: Path | None = None
    domain: str | None = None
    """Of libvirt."""


class ClosableMonitor(Monitor, Protocol):
    """A monitor with a connection that its user closes."""

    def close(self) -> None:
        """Disconnect; never raises."""


def connect(named: Named) -> tuple[QemuProcess, ClosableMonitor]:
    """Return the process and its monitor, which the caller closes.

    Raises `ObserveError`, and `QmpError` if no QMP socket of it answers.
    """
    if named.domain is not None:
        monitor = VirshMonitor(named.domain)
        return find_pid(_pid_behind(monitor)), monitor
    if named.qmp is not None:
        return _by_socket(named.qmp)
    process = (
        find_pid(named.pid) if named.pid is not None else find_name(named.name or "", list_qemus())
    )
    return process, _monitor_of(process)


def _by_socket(path: Path) -> tuple[QemuProcess, AttachedMonitor]:
    monitor = AttachedMonitor(path)
    try:
        return _peer(monitor), monitor
    except BaseException:
        monitor.close()
        raise


def _pid_behind(monitor: Monitor) -> int:
    """Find a QEMU's process by the thread of its first processor. Raises `ObserveError`."""
    thread = int(monitor.execute("query-cpus-fast")[0]["thread-id"])
    try:
        status = Path(f"/proc/{thread}/status").read_text(errors="replace")
    except OSError as error:
        raise ObserveError(
            f"QEMU says that its first processor is thread {thread}, which is not visible from "
            f"here: {error}",
            hint="run this on the host itself",
        ) from error
    return int(status.partition("\nTgid:")[2].split()[0])


def _peer(monitor: AttachedMonitor) -> QemuProcess:
    if not monitor.peer_pid:
        raise ObserveError(
            f"the process behind {monitor.path} is not visible from here (another container)",
            hint="run this where the QEMU is visible, usually on the host itself",
        )
    return find_pid(monitor.peer_pid)


def _monitor_of(process: QemuProcess) -> AttachedMonitor:
    """Connect to the first of its QMP sockets that answers."""
    if process.words.domain:
        raise QmpError(
            f"process {process.pid} is libvirt's domain {process.words.domain!r}, whose monitor "
            "libvirt keeps for itself",
            hint=f"name it by --domain {process.words.domain}",
        )
    refused: HarnessError | None = None
    for path in socket_paths(process):
        try:
            return AttachedMonitor(path)
        except QmpError as error:
            refused = refused or error
    raise refused or QmpError(
        f"the command line of process {process.pid} names no QMP socket on which it listens",
        hint="if it has one, name it by --qmp SOCKET; else start the VM with "
        "-qmp unix:PATH,server=on,wait=off",
    )
