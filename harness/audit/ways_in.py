# SPDX-License-Identifier: Apache-2.0
"""The ways into the guest of a VM that has been found."""

from collections.abc import Callable
from pathlib import Path

from harness.audit.agent_channel import SocketAgent, VirshAgent
from harness.audit.agent_visit import AgentVisit
from harness.audit.qemu_list import QemuProcess, agent_paths
from harness.audit.ssh_visit import SshVisit
from harness.audit.ssh_words import Destination
from harness.audit.vm_audit import VisitMaker
from harness.errors import ObserveError

WayIn = Callable[[QemuProcess], VisitMaker]


def ssh_way(to: Destination, tool: bytes) -> VisitMaker:
    """Enter by ssh(1)."""
    return lambda: SshVisit(to, tool)


def agent_way(process: QemuProcess, domain: str | None, socket: str, tool: bytes) -> VisitMaker:
    """Enter through the guest agent: of libvirt's `domain`, or behind `socket`.

    `socket`: empty for the one that QEMU's command line names. Raises `ObserveError` without one.
    """
    if domain is not None:
        return lambda: AgentVisit(VirshAgent(domain), tool)
    found = [Path(socket)] if socket else agent_paths(process)
    if not found:
        raise ObserveError(
            f"the command line of process {process.pid} names no socket of a guest agent",
            hint=f"name it by --domain {process.words.domain}"
            if process.words.domain
            else "start the VM with -chardev socket,id=ga,path=PATH,server=on,wait=off "
            "-device virtio-serial -device virtserialport,chardev=ga,name=org.qemu.guest_agent.0, "
            "or use --ssh",
        )
    return lambda: AgentVisit(SocketAgent(found[0]), tool)
