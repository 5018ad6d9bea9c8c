# SPDX-License-Identifier: Apache-2.0
"""What is known of one QEMU, and what the harness needs of it. Pure; `qemu_ask` asks."""

from dataclasses import dataclass
from pathlib import Path

ARCHITECTURE = "x86_64"
DEFAULT_MACHINE = "pc"

DISCARD_EVENTS = ("ram_block_discard_range", "ram_block_discard_shared_range")
"""Trace events that tell of every discard of guest RAM, with the same arguments: the name up to
10.0, and the name in 11.1 (both read from `trace-events-all` of Debian's builds)."""


@dataclass(frozen=True)
class Qemu:
    """One QEMU: where it is, and what it said of itself."""

    path: Path
    version: str
    """As in `7.2.22`."""
    package: str
    """Whose build: `Debian 1:7.2+dfsg-7+deb12u18+b3`; empty where it does not say."""
    architecture: str
    """What its guests run on."""
    machines: frozenset[str]
    """Machine types, aliases among them."""
    balloon: frozenset[str]
    """Properties of virtio-balloon-pci; none where it lacks the device."""
    user_network: bool
    """Whether it has slirp, through which a guest's SSH server is reached."""
    sandbox: bool
    """Whether it takes `-sandbox`."""
    kvm: bool
    """Whether KVM is built in; whether the host can run it is another question."""
    discard_event: str | None
    """The trace event of discards that ends up in the log; None: nothing tells of them."""
    untraced: str = ""
    """Why nothing tells of them."""

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def lacking(qemu: Qemu) -> tuple[str, ...]:
    """What no run can do without and this QEMU lacks, each with what it costs."""
    if qemu.architecture != ARCHITECTURE:
        return (f"its guests are {qemu.architecture}, and those of the harness {ARCHITECTURE}",)
    found = []
    if not qemu.balloon:
        found.append("it has no virtio-balloon-pci, so a guest has nobody to report free pages to")
    elif "free-page-reporting" not in qemu.balloon:
        found.append(
            "its virtio-balloon has no free page reporting (QEMU 5.1 brought it), so no memory "
            "ever comes back"
        )
    if not qemu.user_network:
        found.append("it has no user networking (slirp), so a guest cannot be reached over SSH")
    if DEFAULT_MACHINE not in qemu.machines:
        found.append(f"it has no machine type {DEFAULT_MACHINE}, which guests are unless they say")
    return tuple(found)
