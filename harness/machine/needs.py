# SPDX-License-Identifier: Apache-2.0
"""Check what some scenarios need of the host and of QEMU."""

import os
import re
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.machine.cgroup import memory_file
from harness.machine.command import balloon_properties
from harness.machine.qemu import Qemu
from harness.machine.spec import GuestSpec
from harness.units import KIB, MIB, format_size

PREFIX = "needs-"
HUGE_PAGE = 2 * MIB
LOCKED_TIMES = 2
"""QEMU locks all it has mapped: libraries, stacks and translation buffers beside guest memory."""
FAIR_CLOCK = (8, 1)
"""From this release on QEMU gives each vCPU its share of a virtual clock's time; before, one that
waits for another in a loop lets it run too rarely for a guest to boot (icount_percpu_budget())."""
REPLAYS_NETWORK = (10, 0)
"""The first release that repeats a recorded guest's packets. The replays of 5.2 and 7.2 stand
still at the first login; releases between were not tried."""
_HUGE_POOL = "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
_THP = "sys/kernel/mm/transparent_hugepage/enabled"
_THP_2M = "sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled"
_KSM = "sys/kernel/mm/ksm/run"


@dataclass(frozen=True)
class Need:
    """The meaning of a tag `needs-...`."""

    about: str
    missing: Callable[[GuestSpec, Path], str | None]
    """Returns what this host lacks for such a guest, and how to provide it; None if it lacks
    nothing. The path is the root of the file system."""


def missing_needs(tags: Iterable[str], spec: GuestSpec, root: Path = Path("/")) -> str | None:
    """Say the first thing that this host lacks for such a guest; None if it lacks nothing.

    `--set` can change fields but not tags, so needs that follow from a field are checked by it.
    """
    wanted = [tag for tag in tags if tag.startswith(PREFIX) and tag != "needs-hugetlb"]
    if spec.backend == "hugetlb":
        wanted.append("needs-hugetlb")
    if spec.memory_limit and "needs-cgroup" not in wanted:
        wanted.append("needs-cgroup")
    if spec.mem_lock:
        wanted.append("needs-memlock")
    for tag in wanted:
        lacking = NEEDS[tag].missing(spec, root)
        if lacking:
            return f"{tag}: {lacking}"
    return None


def missing_in_qemu(spec: GuestSpec, qemu: Qemu) -> str | None:
    """Say what this QEMU lacks for such a guest; None if it lacks nothing."""
    wanted = balloon_properties(spec, reporting=True).keys() - {"driver", "id"}
    lacking = [] if spec.machine in qemu.machines else [f"machine type {spec.machine}"]
    lacking += [f"{name} of virtio-balloon" for name in sorted(wanted - qemu.balloon)]
    if spec.clock == "virtual" and spec.vcpus > 1 and qemu.release < FAIR_CLOCK:
        lacking.append(f"virtual clock for {spec.vcpus} vCPUs, which is from 8.1 on")
    if spec.rr and qemu.release < REPLAYS_NETWORK:
        lacking.append("replay of a guest's network, which is from 10.0 on (`--qemu trixie`)")
    return f"QEMU {qemu.version} has no {', no '.join(lacking)}" if lacking else None


def free_huge_pages(root: Path = Path("/")) -> int:
    """Return the number of free pages of `HUGE_PAGE` bytes in the host's pool."""
    return int(_word(root / _HUGE_POOL) or 0)


def _huge_pages(spec: GuestSpec, root: Path) -> str | None:
    free = free_huge_pages(root)
    wanted = -(-spec.memory // HUGE_PAGE)
    if free >= wanted:
        return None
    return (
        f"the host's pool has {free} free huge pages of 2 MiB, but the guest of "
        f"{format_size(spec.memory)} needs {wanted} (as root: sysctl vm.nr_hugepages={wanted})"
    )


def _swap(_spec: GuestSpec, root: Path) -> str | None:
    text = (root / "proc/meminfo").read_text()
    free = re.search(r"^SwapFree: +(\d+) kB$", text, re.MULTILINE)
    if free and int(free[1]) * KIB > 0:
        return None
    return "the host has no free swap (swapon(8))"


def _ksm(_spec: GuestSpec, root: Path) -> str | None:
    state = _word(root / _KSM)
    if state == "1":
        return None
    return f"KSM is not running: /{_KSM} is {state or 'absent'} (as root: echo 1 >/{_KSM})"


def _thp(spec: GuestSpec, root: Path) -> str | None:
    """Only anonymous memory is asked for: huge pages of files follow other settings.

    From Linux 6.8 on the size of 2 MiB has a setting of its own, mostly `inherit`
    (admin-guide/mm/transhuge.rst).
    """
    if spec.backend != "anonymous":
        return f"a guest on `{spec.backend}` has no transparent huge pages of anonymous memory"
    if spec.thp == "never":
        return "the guest is to get no transparent huge pages (host.thp is never)"
    if "\nTHP_enabled:\t0\n" in _text(root / "proc/self/status"):
        return (
            "transparent huge pages are off for this process, and so for QEMU (THP_enabled: 0 in "
            "/proc/self/status): what started it called prctl(PR_SET_THP_DISABLE)"
        )
    own = _word(root / _THP_2M)
    name = _THP if not own or "[inherit]" in own else _THP_2M
    words = _word(root / name) or "absent"
    if "[always]" in words or "[madvise]" in words:
        return None
    return (
        f"transparent huge pages are off on the host: /{name} is {words} (as root: echo madvise "
        f">/{name})"
    )


def _memlock(spec: GuestSpec, _root: Path) -> str | None:
    """RLIMIT_MEMLOCK does not bind CAP_IPC_LOCK, which root has and gives QEMU (mlockall(2))."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if os.geteuid() == 0 or limit == resource.RLIM_INFINITY or limit > LOCKED_TIMES * spec.memory:
        return None
    return (
        f"QEMU may lock {format_size(limit)} and the guest has {format_size(spec.memory)} (raise "
        "memlock in /etc/security/limits.conf, or LimitMEMLOCK= of the service)"
    )


def _group(_spec: GuestSpec, _root: Path) -> str | None:
    if memory_file(os.getpid()) is not None:
        return None
    return "this process is in no readable memory control group"


def _word(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


NEEDS: dict[str, Need] = {
    "needs-cgroup": Need("a memory control group in which groups can be created", _group),
    "needs-hugetlb": Need("free 2 MiB pages in the host's pool for the whole guest", _huge_pages),
    "needs-ksm": Need("KSM running on the host", _ksm),
    "needs-memlock": Need("the right to lock the guest's memory", _memlock),
    "needs-swap": Need("free swap on the host", _swap),
    "needs-thp": Need("transparent huge pages on the host, always or madvise", _thp),
}
"""Needs by tag; a run whose needs are not met is a SKIP before the guest boots."""
