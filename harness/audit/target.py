# SPDX-License-Identifier: Apache-2.0
"""Finds the QEMU that the user names, and connects to its QMP."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.audit.attached_monitor import AttachedMonitor
from harness.audit.qemu_list import (
    QemuProcess,
    check_readable,
    find_name,
    find_pid,
    is_stopped,
    list_qemus,
    qemu_of,
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
        return _by_thread(monitor), monitor
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


def _by_thread(monitor: Monitor) -> QemuProcess:
    """Find a QEMU's process by the thread of its first processor. Raises `ObserveError`.

    The number may mean another process here: of another host or container.
    """
    thread = int(monitor.execute("query-cpus-fast")[0]["thread-id"])
    name = str(monitor.execute("query-name").get("name", ""))
    process = qemu_of(thread)
    if process is None or process.words.name != name:
        raise ObserveError(
            f"the QEMU that answers calls itself {name!r} and its first processor thread {thread}, "
            "which is nothing of it here",
            hint="run this on its own host (LIBVIRT_DEFAULT_URI may name another), outside of any "
            "container",
        )
    check_readable(process)
    return process


def _peer(monitor: AttachedMonitor) -> QemuProcess:
    if not monitor.peer_pid:
        raise ObserveError(
            f"the process behind {monitor.path} is not visible from here (another container)",
            hint="run this where the QEMU is visible, usually on the host itself",
        )
    return find_pid(monitor.peer_pid)


def _of(process: QemuProcess, monitor: AttachedMonitor) -> AttachedMonitor:
    """Return the monitor if it is that of the process. Raises `QmpError`."""
    if monitor.peer_pid in (0, process.pid):  # 0: it is not visible from here
        return monitor
    monitor.close()
    raise QmpError(
        f"the command line of process {process.pid} names the QMP socket {monitor.path}, but "
        f"process {monitor.peer_pid} answers there: it was started later, with the same path",
        hint="give each VM a socket of its own",
    )


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
            return _of(process, AttachedMonitor(path))
        except QmpError as error:
            refused = refused or error
    if is_stopped(process.pid):
        raise QmpError(
            f"process {process.pid} is stopped (by SIGSTOP or a debugger), and answers nothing",
            hint=f"let it run: kill -CONT {process.pid}",
        )
    relative = [name for name in process.words.sockets if not name.startswith("/")]
    if relative and not any(path.exists() for path in socket_paths(process)):
        raise QmpError(
            f"the command line of process {process.pid} names the QMP socket {relative[0]}, which "
            "is not in its directory: it has left the one in which it was started (-daemonize)",
            hint=f"name the socket by its whole path: --qmp DIRECTORY/{relative[0]}",
        )
    raise refused or QmpError(
        f"the command line of process {process.pid} names no QMP socket on which it listens",
        hint="if it has one, name it by --qmp SOCKET; else start the VM with "
        "-qmp unix:PATH,server=on,wait=off",
    )
