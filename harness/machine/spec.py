# SPDX-License-Identifier: Apache-2.0
"""The specification of a guest's machine."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harness.machine.huge_pages import HugePages
from harness.machine.interfaces import Traced
from harness.machine.keys import RunKeys
from harness.machine.qemu import Qemu

Accelerator = Literal["auto", "kvm", "tcg"]
Backend = Literal[
    "anonymous", "memfd-shared", "memfd-private", "file-shared", "file-private", "hugetlb"
]
Machine = Literal["pc", "q35", "microvm"]
Discard = Literal["dontneed", "free", "slow"]
Clock = Literal["real", "virtual"]


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node of the guest: bytes of memory, and the indices of its vCPUs."""

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
    """One guest; memory is in bytes, and without `numa` one node has all memory and vCPUs."""

    memory: int
    vcpus: int
    cmdline: str = ""
    """Appended to the kernel command line."""
    numa: tuple[NumaNode, ...] = ()
    machine: Machine = "pc"
    hotplug: int = 0
    """Bytes that can be plugged in addition to `memory`."""
    disk: int = 0
    """Bytes of an initially empty disk, which moves with the guest."""
    balloon: BalloonSpec = BalloonSpec()
    backend: Backend = "anonymous"
    discard: Discard = "dontneed"
    """How QEMU discards memory; `free` (MADV_FREE) and `slow` need the interposer."""
    under_pressure: bool = False
    """Whether the host must be able to reclaim memory from this QEMU alone."""
    memory_limit: int = 0
    """Limit in bytes of QEMU's own memory control group; 0 means no limit."""
    mem_lock: bool = False
    """Whether QEMU locks all its memory."""
    prealloc: bool = False
    """Whether QEMU touches all of the guest's memory before the guest boots."""
    thp: HugePages = "host"
    """Whether QEMU gets transparent huge pages as the host is set up, or never."""
    qemu_args: tuple[str, ...] = ()
    """Further words of QEMU's command line."""
    clock: Clock = "real"
    """Whether the guest's clock is the host's, or counts its instructions and jumps to the next
    timer where it idles (TCG only)."""
    rr: Literal["", "record", "replay"] = ""
    """Whether QEMU records what reaches the guest, or repeats it; under the virtual clock only."""


class BootLike(Protocol):
    """The files that are booted, such as `harness.image.build.BootFiles`."""

    @property
    def kernel(self) -> Path:
        """A bzImage."""

    @property
    def initramfs(self) -> Path:
        """An initramfs with the project's init, without SSH keys."""

    @property
    def more(self) -> tuple[Path, ...]:
        """Archives to append to the initramfs."""


def unwatched(_vm: Traced) -> AbstractContextManager[None]:
    """Watch nothing while a guest boots."""
    return nullcontext()


@dataclass(frozen=True)
class Launch:
    """The parameters of a launch, apart from the accelerator."""

    spec: GuestSpec
    boot: BootLike
    qemu: Qemu
    artefacts: Path
    cancelled: threading.Event
    boot_deadline: float | None = None
    keys: RunKeys | None = None
    """SSH keys; if None, they are generated for this guest."""
    start: Literal["boot", "incoming", "stopped"] = "boot"
    """Whether it boots, waits for a migration (`incoming`), or stays stopped."""
    disk: Path | None = None
    """The disk of a guest that arrives; None: the guest gets an empty one."""
    while_booting: Callable[[Traced], AbstractContextManager[None]] = unwatched
    """Entered when QEMU runs, and left when the guest is ready or will not be."""
