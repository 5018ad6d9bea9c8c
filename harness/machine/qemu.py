# SPDX-License-Identifier: Apache-2.0
"""Facts about one QEMU, as `qemu_probe` finds them, and what the harness needs of it."""

from dataclasses import dataclass
from pathlib import Path

from harness.machine.qemu_user import QemuUser

ARCHITECTURE = "x86_64"
DEFAULT_MACHINE = "pc"

DISCARD_EVENTS = ("ram_block_discard_range", "ram_block_discard_shared_range")
"""Trace events of a discard of guest RAM, with the same arguments: the name up to 10.0, and the
name in 11.1 (both read from `trace-events-all` of Debian's builds)."""


DENIED = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
"""What the filter is told to deny, as libvirt tells it: system calls that are obsolete, raise
rights, start a program, or change priorities and affinity. It can deny no more (qemu-options.hx,
2.11 to 11.1)."""


@dataclass(frozen=True)
class Qemu:
    """One QEMU: its path, and what it says about itself."""

    path: Path
    version: str
    """`7.2.22`."""
    package: str
    """Its build: `Debian 1:7.2+dfsg-7+deb12u18+b3`; empty if it does not say."""
    architecture: str
    """Architecture of its guests."""
    machines: frozenset[str]
    """Machine types, including aliases."""
    balloon: frozenset[str]
    """Properties of virtio-balloon-pci; empty if it lacks the device."""
    user_network: bool
    """Whether it has slirp, through which a guest's SSH server is reached."""
    sandbox: frozenset[str]
    """What its seccomp filter (`-sandbox`) can deny; empty: it has no filter."""
    kvm: bool
    """Whether KVM is built in, which does not mean that it works on this host."""
    discard_event: str | None
    """The trace event of discards; None if it cannot trace them."""
    untraced: str = ""
    """Why it cannot trace discards; empty if it can."""
    user: QemuUser | None = None
    """Whom it runs as; None: as the user of the harness."""
    as_root: str = ""
    """Why it runs as root where the harness does; empty if it does not."""

    @property
    def denied(self) -> tuple[str, ...]:
        """What its filter is to deny, of `DENIED`."""
        return tuple(name for name in DENIED if name in self.sandbox)

    @property
    def unconfined(self) -> str:
        """What its filter cannot deny of `DENIED`, and why it runs as root; empty: neither."""
        found = []
        allowed = [name for name in DENIED if name not in self.sandbox]
        if not self.sandbox:
            found.append("it is built without a seccomp filter (-sandbox)")
        elif allowed:
            found.append(f"its seccomp filter cannot deny {', '.join(allowed)}")
        if self.as_root:
            found.append(f"it runs as root: {self.as_root}")
        return "; ".join(found)

    @property
    def major(self) -> int:
        return self.release[0]

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = (int(part) for part in self.version.split(".")[:2])
        return major, minor


def lacking(qemu: Qemu) -> tuple[str, ...]:
    """List what every run needs and this QEMU lacks, each with its consequence."""
    if qemu.architecture != ARCHITECTURE:
        return (f"it runs {qemu.architecture} guests, and the harness needs {ARCHITECTURE}",)
    found = []
    if not qemu.balloon:
        found.append("it has no virtio-balloon-pci, to which guests report their free pages")
    elif "free-page-reporting" not in qemu.balloon:
        found.append(
            "its virtio-balloon has no free page reporting, which QEMU 5.1 introduced, so guests "
            "cannot give memory back"
        )
    if not qemu.user_network:
        found.append("it has no user networking (slirp), so guests cannot be reached over SSH")
    if DEFAULT_MACHINE not in qemu.machines:
        found.append(f"it has no machine type {DEFAULT_MACHINE}, which is the default of guests")
    return tuple(found)
