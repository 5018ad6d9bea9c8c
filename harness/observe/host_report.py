# SPDX-License-Identifier: Apache-2.0
"""What can be read of a host that bears on guests and on measuring them; nothing is changed."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ObserveError
from harness.machine.cgroup import group_room, memory_file
from harness.observe.host_noise import HostNoiseReader
from harness.observe.page_walk import ScanSupport
from harness.units import GIB, KIB, MIB, format_size

LITTLE_DISK = GIB
TOO_LITTLE_DISK = 128 * MIB
"""An image with its packages takes about 100 MiB, the results of a run about 1 MiB."""

THP = Path("kernel/mm/transparent_hugepage")
KSM = Path("kernel/mm/ksm")

_CHOSEN = re.compile(r"\[([\w+]+)\]")


@dataclass(frozen=True)
class Finding:
    """One thing about the host: what was seen, and what to do about it unless it is ok."""

    name: str
    state: Literal["ok", "warn", "bad"]
    seen: str
    advice: str = ""


def judge_thp(enabled: str | None, defrag: str | None) -> Finding:
    """From /sys/kernel/mm/transparent_hugepage/{enabled,defrag}; None where there is no file."""
    policy, compaction = _chosen(enabled), _chosen(defrag)
    if policy is None:
        return Finding(
            "huge pages",
            "warn",
            "the kernel has no transparent huge pages",
            "guests get small pages only: measure how discards meet huge pages on another kernel",
        )
    seen = f"transparent huge pages: {policy}, defrag: {compaction or 'unknown'}"
    if policy == "never":
        return Finding(
            "huge pages",
            "warn",
            seen,
            "guests get small pages, unlike on most hosts: "
            f"echo madvise > /sys/{THP}/enabled (as root)",
        )
    return Finding("huge pages", "ok", seen)


def judge_swap(swaps: str | None) -> Finding:
    """From /proc/swaps (proc(5): sizes in KiB); None where the kernel cannot swap."""
    rows = [line.split() for line in (swaps or "").splitlines()[1:]]
    areas = [(int(row[-3]), int(row[-2])) for row in rows if len(row) >= 5]
    if not areas:
        return Finding("swap", "ok", "none")
    size, used = (sum(column) * KIB for column in zip(*areas, strict=True))
    if not used:
        return Finding("swap", "ok", f"{format_size(size)}, not in use")
    return Finding(
        "swap",
        "warn",
        f"{format_size(used)} of {format_size(size)} in use",
        "a run in which guest memory is swapped out proves nothing and ends as MISS: "
        "free memory, or swapoff -a (as root) while measuring",
    )


def judge_ksm(run: str | None, pages_sharing: str | None) -> Finding:
    """From /sys/kernel/mm/ksm/{run,pages_sharing}; None where there is no KSM."""
    if run is None:
        return Finding("KSM", "ok", "the kernel has none")
    if run.strip() != "1":
        return Finding("KSM", "ok", "off")
    return Finding(
        "KSM",
        "warn",
        f"on, {(pages_sharing or 'unknown').strip()} pages share another",
        "merged pages look like memory given back: "
        f"echo 2 > /sys/{KSM}/run (as root) while measuring",
    )


_BY_RSS = (
    "audits are slower, and cannot judge zero pages while KSM merges pages of the guest: a kernel "
    "of 6.16 or later does better"
)


def judge_kernel(release: str, support: ScanSupport) -> Finding:
    """How well this kernel tells the state of a guest's pages."""
    seen = {
        ScanSupport.FULL: "PAGEMAP_SCAN tells the zero page and the huge zero page",
        ScanSupport.ZERO_PAGE: "PAGEMAP_SCAN takes the huge zero page for memory",
        ScanSupport.NONE: "no PAGEMAP_SCAN (Linux 6.7)",
    }[support]
    if support is not ScanSupport.FULL:
        seen += ": zero pages are told by pagemap and Rss"
    advice = "" if support is ScanSupport.FULL else _BY_RSS
    return Finding("kernel", "warn" if advice else "ok", f"Linux {release}: {seen}", advice)


def judge_cgroup(groups: str, charge: Path | None) -> Finding:
    """From /proc/self/cgroup and the readable file of what the group is charged with, if any."""
    if charge is not None:
        version = "v2" if charge.name == "memory.current" else "v1"
        return Finding("cgroup", "ok", f"memory by {version}, {charge} is readable")
    kinds = [line.split(":", 2)[1] for line in groups.splitlines() if line.count(":") >= 2]
    if any("memory" in kind.split(",") for kind in kinds):
        seen = "memory by v1, but memory.usage_in_bytes is not readable"
    elif "" in kinds:
        seen = "v2, but memory.current is not readable (the root group has none)"
    else:
        seen = "no group that accounts memory"
    return Finding(
        "cgroup",
        "warn",
        seen,
        "runs go without what the group is charged with; to have it, start in a group with the "
        "memory controller: systemd-run --scope --user -p MemoryAccounting=yes",
    )


def judge_memory(available: int, limit: int | None, guests: int) -> Finding:
    """`limit`: what the control group still allows. `guests` of 1 GiB may run at once."""
    room = available if limit is None else min(available, limit)
    whose = "" if room == available else ", by the limit of the control group"
    seen = f"{format_size(room)} available{whose}: {guests} guest{'s'[: guests != 1]} of 1GiB fit"
    if guests:
        return Finding("memory", "ok", seen)
    return Finding(
        "memory",
        "bad",
        seen,
        "end other programs, or take smaller guests: --set guest.memory=512MiB",
    )


def judge_disk(name: str, path: Path, free: int, writable: bool, elsewhere: str) -> Finding:
    """`elsewhere` says how to put it on another disk."""
    seen = f"{format_size(free)} free for {path}"
    if not writable:
        return Finding(name, "bad", f"you may not write to {path}", elsewhere)
    if free >= LITTLE_DISK:
        return Finding(name, "ok", seen)
    state: Literal["warn", "bad"] = "warn" if free >= TOO_LITTLE_DISK else "bad"
    return Finding(name, state, seen, f"free some, or {elsewhere}")


def read_disk(name: str, path: Path, elsewhere: str) -> Finding:
    """The disk that holds a directory, be it not made yet."""
    for existing in (path, *path.absolute().parents):
        try:
            free = shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:  # a directory on the way that you may not enter
            return judge_disk(name, path, 0, False, elsewhere)
        return judge_disk(name, path, free, os.access(existing, os.W_OK | os.X_OK), elsewhere)
    return Finding(name, "bad", f"{path} is nowhere", elsewhere)


def read_memory(guest_need: int, share: float) -> Finding:
    """How many guests that need so many bytes fit into their `share` of available memory."""
    charge = memory_file(os.getpid())
    limit = group_room(charge) if charge is not None else None
    try:
        available = HostNoiseReader().read().mem_available
    except ObserveError as error:
        return Finding("memory", "warn", error.message, "mount a whole procfs on /proc")
    room = available if limit is None else min(available, limit)
    return judge_memory(available, limit, int(room * share) // guest_need)


def read_host(
    support: ScanSupport, proc: Path = Path("/proc"), sys: Path = Path("/sys")
) -> Iterator[Finding]:
    """What procfs and sysfs say; `support` is what the kernel's PAGEMAP_SCAN was seen to do."""
    yield judge_kernel(os.uname().release, support)
    yield judge_thp(_read(sys / THP / "enabled"), _read(sys / THP / "defrag"))
    yield judge_swap(_read(proc / "swaps"))
    yield judge_ksm(_read(sys / KSM / "run"), _read(sys / KSM / "pages_sharing"))
    yield judge_cgroup(_read(proc / "self" / "cgroup") or "", memory_file(os.getpid()))


def _chosen(text: str | None) -> str | None:
    """The word in brackets: `always [madvise] never`."""
    match = _CHOSEN.search(text or "")
    return match[1] if match is not None else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
