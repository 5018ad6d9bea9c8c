# SPDX-License-Identifier: Apache-2.0
"""Ways to make the host reclaim memory from one QEMU; each says why it fails on this host."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harness.errors import PreconditionError
from harness.machine.cgroup import memory_file, oom_kills

SYS_PROCESS_MADVISE = 440
"""System call number, the same on every architecture (Linux 5.10)."""
MADV_PAGEOUT = 21
IOV_MAX = 1024

_UNLIMITED = "-1"


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def page_out(pid: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Call process_madvise(MADV_PAGEOUT) on host addresses [low, high) of `pid`.

    It needs CAP_SYS_NICE and permission to ptrace the process (process_madvise(2)). Raises
    `PreconditionError` if the host refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise PreconditionError(f"pidfd_open: {error.strerror}") from error
    try:
        left = list(ranges)
        while left:
            vectors = (_IoVec * min(len(left), IOV_MAX))(
                *(_IoVec(low, high - low) for low, high in left[:IOV_MAX])
            )
            done = libc.syscall(
                SYS_PROCESS_MADVISE, descriptor, vectors, len(vectors), MADV_PAGEOUT, 0
            )
            if done < 0:
                raise _refused(ctypes.get_errno())
            left = _rest(left, done)
    finally:
        os.close(descriptor)


def _rest(ranges: list[tuple[int, int]], done: int) -> list[tuple[int, int]]:
    """Return the ranges that remain after the kernel has advised the first `done` bytes."""
    if not done:
        raise PreconditionError("process_madvise(MADV_PAGEOUT) advised no bytes")
    for index, (low, high) in enumerate(ranges):
        if index == IOV_MAX:
            return ranges[index:]
        if done < high - low:
            return [(low + done, high), *ranges[index + 1 :]]
        done -= high - low
    return []


def _refused(number: int) -> PreconditionError:
    hints = {
        errno.EPERM: "it needs CAP_SYS_NICE (run as root)",
        errno.ENOSYS: "it needs Linux 5.10",
        errno.EINVAL: "it needs Linux 5.10 with MADV_PAGEOUT",
    }
    why = hints.get(number, "")
    return PreconditionError(
        f"process_madvise(MADV_PAGEOUT): {os.strerror(number)}" + (f": {why}" if why else "")
    )


def reclaim_v2(pid: int, size: int) -> None:
    """Reclaim `size` bytes from QEMU's control group (v2) through memory.reclaim (Linux 5.19).

    The kernel returns EAGAIN if it reclaimed less, which the host's mapping then shows. Raises
    `PreconditionError`.
    """
    charge = memory_file(pid)
    if charge is None or charge.name != "memory.current":
        raise PreconditionError("QEMU is in no readable memory control group of version 2")
    path = charge.with_name("memory.reclaim")
    try:
        path.write_text(str(size))
    except BlockingIOError:
        return
    except FileNotFoundError as error:
        raise PreconditionError(f"{path} does not exist: it needs Linux 5.19") from error
    except OSError as error:
        raise PreconditionError(f"{path}: {error.strerror}") from error


def own_group(name: str, pid: int, *, needed: bool) -> tuple["MemoryGroup | None", str]:
    """Create a group for QEMU; without one, say why. Raises `PreconditionError` if it is needed."""
    try:
        return MemoryGroup.make(name, pid), ""
    except PreconditionError as error:
        if needed:
            raise
        return None, error.message


class MemoryGroup:
    """A memory control group for QEMU alone, created before the guest's memory is touched.

    Charges stay with the group in which they were made (cgroup-v1/memory.rst), so a group that
    QEMU joined later would have nothing to reclaim.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, name: str, pid: int) -> Self:
        """Create a group and move `pid` into it. Raises `PreconditionError`.

        In version 1 it is a child of the group of `pid`. In version 2 a group with processes
        cannot have children with a memory controller, so it is a sibling, or further up the tree.
        """
        charge = memory_file(pid)
        if charge is None:
            raise PreconditionError("QEMU is in no readable memory control group")
        version_1 = charge.name == "memory.usage_in_bytes"
        places = [charge.parent] if version_1 else charge.parents[1:]
        refused = []
        for place in places:
            if not (place / "cgroup.procs").exists():
                break
            _sweep(place)
            group = cls(place / f"{name}.{os.getpid()}")
            try:
                group.path.mkdir()
                if (group.path / charge.name).exists():
                    (group.path / "cgroup.procs").write_text(str(pid))
                    return group
                why = "it has no memory controller"
            except OSError as error:
                why = error.strerror or str(error)
            group.remove()
            refused.append(f"{group.path}: {why}")
        why = "; ".join(refused) or f"there is no group above {charge.parent}"
        raise PreconditionError(f"cannot create a control group for QEMU: {why}")

    def limit(self, size: int) -> None:
        """Limit its charge to `size` bytes. Raises `PreconditionError`."""
        for name in ("memory.max", "memory.limit_in_bytes"):
            path = self.path / name
            if path.exists():
                try:
                    path.write_text(str(size))
                except OSError as error:
                    raise PreconditionError(f"{path}: {error.strerror}") from error
                return
        raise PreconditionError(f"{self.path} has no memory limit to set")

    @property
    def kills(self) -> int:
        """Number of OOM kills in the group."""
        for name in ("memory.current", "memory.usage_in_bytes"):
            if (self.path / name).exists():
                return oom_kills(self.path / name)
        return 0

    def press(self, size: int) -> None:
        """Lower the limit to `size` bytes below the charge, and lift it again.

        Lowering reclaims before it returns, and fails with EBUSY if it reclaimed less, which the
        host's mapping then shows. Raises `PreconditionError`.
        """
        limit = self.path / "memory.limit_in_bytes"
        if not limit.exists():
            raise PreconditionError(f"{limit} does not exist: it needs cgroup v1")
        try:
            used = int((self.path / "memory.usage_in_bytes").read_text())
            with contextlib.suppress(OSError):
                limit.write_text(str(max(0, used - size)))
            limit.write_text(_UNLIMITED)
        except OSError as error:
            raise PreconditionError(f"{limit}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the group once its process has ended; never raises."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _sweep(parent: Path) -> None:
    """Remove the groups of QEMUs whose harness was killed."""
    for stale in parent.glob("fpr-*.*"):
        if not Path(f"/proc/{stale.suffix[1:]}").exists():
            MemoryGroup(stale).remove()
