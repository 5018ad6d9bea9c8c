# SPDX-License-Identifier: Apache-2.0
"""The CPU time of QEMU's threads: its main thread, which discards, its vCPUs, and all others.

/proc/PID/task/TID/schedstat, whose first number is the time on a CPU in nanoseconds
(Documentation/scheduler/sched-stats.rst); anybody may read it.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ObserveError
from harness.machine.interfaces import Monitor

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class ThreadSeconds:
    """CPU time since QEMU began, by kind of thread: seconds."""

    main: float
    vcpus: float
    others: float
    """Of I/O threads and workers, those that ended included."""


class ThreadTimes:
    """Reads the CPU times of one QEMU."""

    def __init__(self, pid: int, vcpus: frozenset[int]) -> None:
        self._pid = pid
        self._vcpus = vcpus
        self._ended: dict[int, float] = {}
        """By thread, as last read; workers come and go."""

    @classmethod
    def of(cls, pid: int, monitor: Monitor) -> "ThreadTimes":
        """Ask QEMU which threads are its vCPUs. Raises `QmpError`."""
        found = monitor.execute("query-cpus-fast")
        return cls(pid, frozenset(int(each["thread-id"]) for each in found))

    def read(self) -> ThreadSeconds:
        """Read all threads. Raises `ObserveError` if QEMU has ended or the host does not tell."""
        for path in Path(f"/proc/{self._pid}/task").glob("[0-9]*"):
            # A thread may end at any time.
            with contextlib.suppress(OSError, ValueError, IndexError):
                words = (path / "schedstat").read_text("ascii").split()
                self._ended[int(path.name)] = int(words[0]) * _NANOSECOND
        if self._pid not in self._ended:
            raise ObserveError(
                f"/proc/{self._pid}/task says nothing of the CPU time of QEMU's threads",
                hint="it takes a host kernel with CONFIG_SCHED_INFO",
            )
        main = self._ended[self._pid]
        vcpus = sum(time for tid, time in self._ended.items() if tid in self._vcpus)
        return ThreadSeconds(main, vcpus, sum(self._ended.values()) - main - vcpus)
