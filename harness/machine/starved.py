# SPDX-License-Identifier: Apache-2.0
"""Tell a QEMU that waited for a processor from a guest that did not use one.

The first two numbers of /proc/PID/task/TID/schedstat are the time on a processor and the time spent
waiting for one, in nanoseconds (Documentation/scheduler/sched-stats.rst). A thread that the quota
of its control group keeps from running waits, too.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

HINT = (
    "run fewer guests at once with --jobs, end what else takes the processors, or allow QEMU more "
    "of them (cpu.max or cpu.cfs_quota_us of its control group)"
)

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class Share:
    """What the busiest thread of a process had of a processor: seconds."""

    ran: float
    waited: float

    @property
    def words(self) -> str:
        """On one line, as part of a sentence."""
        return f"QEMU ran for {self.ran:.1f} s and waited {self.waited:.1f} s for a processor"


Times = dict[int, tuple[int, int]]
"""By thread: nanoseconds on a processor, and waiting for one."""


def thread_times(pid: int, proc: Path = Path("/proc")) -> Times:
    """Read them; empty if the process has ended or the host does not tell."""
    times: Times = {}
    for path in proc.glob(f"{pid}/task/*/schedstat"):
        with contextlib.suppress(OSError, ValueError):
            ran, waited, *_ = map(int, path.read_text("ascii").split())
            times[int(path.parent.name)] = (ran, waited)
    return times


def share(times: Times, since: Times | None = None) -> Share:
    """Return what the busiest thread has had, since an earlier reading or its own beginning."""
    before = since or {}
    grown = [
        (ran - before.get(thread, (0, 0))[0], waited - before.get(thread, (0, 0))[1])
        for thread, (ran, waited) in times.items()
    ]
    ran, waited = max(grown, key=sum, default=(0, 0))
    return Share(ran * _NANOSECOND, waited * _NANOSECOND)
