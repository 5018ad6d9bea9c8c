# SPDX-License-Identifier: Apache-2.0
"""What machine to make, apart from how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Accelerator = Literal["auto", "kvm", "tcg"]
Backend = Literal["anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private"]
Discard = Literal["dontneed", "free"]


@dataclass(frozen=True)
class NumaNode:
    """One node of the guest: bytes of memory and the numbers of its vCPUs."""

    memory: int
    vcpus: tuple[int, ...]


@dataclass(frozen=True)
class GuestSpec:
    """One guest. Memory in bytes; no `numa` means one node with everything."""

    memory: int
    vcpus: int
    cmdline: str = ""
    """Appended to the kernel command line."""
    numa: tuple[NumaNode, ...] = ()
    free_page_reporting: bool = True
    backend: Backend = "anonymous"
    discard: Discard = "dontneed"
    """How QEMU gives memory back; `free` (MADV_FREE) needs the interposer."""
    under_pressure: bool = False
    """Whether the host shall be able to press memory out of this QEMU alone."""


class BootLike(Protocol):
    """What is booted; `harness.image.build.BootFiles` is one."""

    @property
    def kernel(self) -> Path:
        """A bzImage."""

    @property
    def initramfs(self) -> Path:
        """An initramfs with the project's init and no SSH keys yet."""
