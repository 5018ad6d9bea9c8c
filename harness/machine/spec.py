# SPDX-License-Identifier: Apache-2.0
"""What machine to make, apart from how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Accelerator = Literal["auto", "kvm", "tcg"]
Backend = Literal[
    "anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private", "hugetlb"
]
Machine = Literal["pc", "q35", "microvm"]
Discard = Literal["dontneed", "free"]


@dataclass(frozen=True)
class NumaNode:
    """One node of the guest: bytes of memory and the numbers of its vCPUs."""

    memory: int
    vcpus: tuple[int, ...]


@dataclass(frozen=True)
class BalloonSpec:
    """The balloon device's features, and whether QEMU polls the guest's statistics."""

    free_page_reporting: bool = True
    free_page_hint: bool = False
    deflate_on_oom: bool = False
    statistics: bool = False


@dataclass(frozen=True)
class GuestSpec:
    """One guest. Memory in bytes; no `numa` means one node with everything."""

    memory: int
    vcpus: int
    cmdline: str = ""
    """Appended to the kernel command line."""
    numa: tuple[NumaNode, ...] = ()
    machine: Machine = "pc"
    hotplug: int = 0
    """Bytes that can be plugged beside `memory`."""
    disk: int = 0
    """Bytes of an empty disk."""
    balloon: BalloonSpec = BalloonSpec()
    backend: Backend = "anonymous"
    discard: Discard = "dontneed"
    """How QEMU gives memory back; `free` (MADV_FREE) needs the interposer."""
    under_pressure: bool = False
    """Whether the host shall be able to press memory out of this QEMU alone."""
    memory_limit: int = 0
    """Bytes that QEMU may be charged with, by a control group of its own; 0: no limit."""


class BootLike(Protocol):
    """What is booted; `harness.image.build.BootFiles` is one."""

    @property
    def kernel(self) -> Path:
        """A bzImage."""

    @property
    def initramfs(self) -> Path:
        """An initramfs with the project's init and no SSH keys yet."""

    @property
    def more(self) -> tuple[Path, ...]:
        """Archives to put behind it."""
