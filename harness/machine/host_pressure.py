# SPDX-License-Identifier: Apache-2.0
"""Ways to make the host take memory from one QEMU; each says why it cannot be done here."""

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
"""The same number on every architecture (Linux 5.10)."""
MADV_PAGEOUT = 21
IOV_MAX = 1024

_UNLIMITED = "-1"


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def page_out(pid: int, ranges: Sequence[tuple[int, int]]) -> None:
    """process_madvise(MADV_PAGEOUT) on host addresses [low, high) of `pid`.

    Needs CAP_SYS_NICE besides the rights of a debugger (process_madvise(2)). Raises
    `PreconditionError` where the host refuses.
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
    """What remains after the kernel has advised the first `done` bytes."""
    if not done:
        raise PreconditionError("process_madvise(MADV_PAGEOUT) took nothing")
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
    """Ask QEMU's control group (v2) to give `size` bytes back, through memory.reclaim (5.19).

    The kernel says EAGAIN when it found less: what it took is then seen in the mapping. Raises
    `PreconditionError`.
    """
    charge = memory_file(pid)
    if charge is None or charge.name != "memory.current":
        raise PreconditionError("QEMU's memory is in no readable control group of version 2")
    path = charge.with_name("memory.reclaim")
    try:
        path.write_text(str(size))
    except BlockingIOError:
        return
    except FileNotFoundError as error:
        raise PreconditionError(f"{path} is absent: it needs Linux 5.19") from error
    except OSError as error:
        raise PreconditionError(f"{path}: {error.strerror}") from error


class MemoryGroup:
    """A control group of QEMU's own, made before the guest's memory is touched.

    Charges stay with the group in which they were made (cgroup-v1/memory.rst), so a limit on a
    group joined later would find nothing to take.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, name: str, pid: int) -> Self:
        """A group into which `pid` moves. Raises `PreconditionError`.

        In version 1 below that of `pid`. In version 2 a group with processes can have none below
        it with a memory controller, so it lies beside, or at the top, where root may make one.
        """
        charge = memory_file(pid)
        if charge is None:
            raise PreconditionError("QEMU's memory is in no readable control group")
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
                why = "it gets no memory controller"
            except OSError as error:
                why = error.strerror or str(error)
            group.remove()
            refused.append(f"{group.path}: {why}")
        why = "; ".join(refused) or f"there is none above {charge.parent}"
        raise PreconditionError(f"cannot make a control group for QEMU: {why}")

    def limit(self, size: int) -> None:
        """Let it be charged with no more than `size` bytes. Raises `PreconditionError`."""
        for name in ("memory.max", "memory.limit_in_bytes"):
            path = self.path / name
            if path.exists():
                try:
                    path.write_text(str(size))
                except OSError as error:
                    raise PreconditionError(f"{path}: {error.strerror}") from error
                return
        raise PreconditionError(f"{self.path} takes no limit")

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed in it for want of memory."""
        for name in ("memory.current", "memory.usage_in_bytes"):
            if (self.path / name).exists():
                return oom_kills(self.path / name)
        return 0

    def press(self, size: int) -> None:
        """Lower the limit `size` bytes below what is charged, and lift it again.

        Lowering reclaims before it returns, and fails with EBUSY if it cannot: what was taken is
        then seen in the mapping. Raises `PreconditionError`.
        """
        limit = self.path / "memory.limit_in_bytes"
        if not limit.exists():
            raise PreconditionError(f"{limit} is absent: it needs a control group of version 1")
        try:
            used = int((self.path / "memory.usage_in_bytes").read_text())
            with contextlib.suppress(OSError):
                limit.write_text(str(max(0, used - size)))
            limit.write_text(_UNLIMITED)
        except OSError as error:
            raise PreconditionError(f"{limit}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it, once its process has ended; never raises."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _sweep(parent: Path) -> None:
    """Remove the groups of QEMUs whose harness was killed."""
    for stale in parent.glob("fpr-*.*"):
        if not Path(f"/proc/{stale.suffix[1:]}").exists():
            MemoryGroup(stale).remove()
