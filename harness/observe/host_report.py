# SPDX-License-Identifier: Apache-2.0
"""Reads the host's settings that affect guests and measurements; changes nothing."""

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
    """One fact about the host: what was seen, and what to do about it unless it is ok."""

    name: str
    state: Literal["ok", "warn", "bad"]
    seen: str
    advice: str = ""


def judge_thp(enabled: str | None, defrag: str | None) -> Finding:
    """Judge /sys/kernel/mm/transparent_hugepage/{enabled,defrag}; None: no such file."""
    policy, compaction = _chosen(enabled), _chosen(defrag)
    if policy is None:
        return Finding(
            "huge pages",
            "warn",
            "the kernel has no transparent huge pages",
            "guests get small pages only: to measure discards of huge pages, boot a kernel with "
            "CONFIG_TRANSPARENT_HUGEPAGE",
        )
    seen = f"transparent huge pages: {policy}, defrag: {compaction or 'unknown'}"
    if policy == "never":
        return Finding(
            "huge pages",
            "warn",
            seen,
            "guests get small pages only, unlike on most hosts: "
            f"echo madvise > /sys/{THP}/enabled (as root)",
        )
    return Finding("huge pages", "ok", seen)


def judge_swap(swaps: str | None) -> Finding:
    """Judge /proc/swaps (proc(5): sizes in KiB); None: the kernel cannot swap."""
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
        "a run during which guest memory is swapped out proves nothing and ends as MISS: "
        "free memory, or swapoff -a (as root) while measuring",
    )


def judge_ksm(run: str | None, pages_sharing: str | None) -> Finding:
    """Judge /sys/kernel/mm/ksm/{run,pages_sharing}; None: no KSM."""
    if run is None:
        return Finding("KSM", "ok", "the kernel has none")
    if run.strip() != "1":
        return Finding("KSM", "ok", "off")
    return Finding(
        "KSM",
        "warn",
        f"on, pages_sharing {(pages_sharing or 'unknown').strip()}",
        "merged pages look like reclaimed memory: "
        f"echo 2 > /sys/{KSM}/run (as root) while measuring",
    )


_BY_RSS = (
    "audits are slower, and cannot judge zero pages while KSM merges pages of the guest: use Linux "
    "6.16 or later"
)


def judge_kernel(release: str, support: ScanSupport) -> Finding:
    """Judge how well this kernel tells the state of a guest's pages."""
    seen = {
        ScanSupport.FULL: "PAGEMAP_SCAN recognizes the zero page and the huge zero page",
        ScanSupport.ZERO_PAGE: "PAGEMAP_SCAN counts the huge zero page as memory",
        ScanSupport.NONE: "no PAGEMAP_SCAN (Linux 6.7)",
    }[support]
    if support is not ScanSupport.FULL:
        seen += ": audits find zero pages by pagemap and Rss"
    advice = "" if support is ScanSupport.FULL else _BY_RSS
    return Finding("kernel", "warn" if advice else "ok", f"Linux {release}: {seen}", advice)


def judge_cgroup(groups: str, charge: Path | None) -> Finding:
    """Judge /proc/self/cgroup and the readable file with the group's memory charge, if any."""
    if charge is not None:
        version = "v2" if charge.name == "memory.current" else "v1"
        return Finding("cgroup", "ok", f"{version}, {charge} is readable")
    kinds = [line.split(":", 2)[1] for line in groups.splitlines() if line.count(":") >= 2]
    if any("memory" in kind.split(",") for kind in kinds):
        seen = "v1, but memory.usage_in_bytes is not readable"
    elif "" in kinds:
        seen = "v2, but memory.current is not readable (the root group has none)"
    else:
        seen = "no cgroup accounts memory"
    return Finding(
        "cgroup",
        "warn",
        seen,
        "runs do not record the cgroup's memory charge; to record it, start in a cgroup with the "
        "memory controller: systemd-run --scope --user -p MemoryAccounting=yes",
    )


def judge_memory(available: int, limit: int | None, guests: int) -> Finding:
    """Judge the available memory.

    `limit`: bytes that the cgroup still allows; None without a limit. `guests`: how many guests of
    1 GiB fit at once.
    """
    room = available if limit is None else min(available, limit)
    whose = "" if room == available else " within the cgroup's limit"
    seen = f"{format_size(room)} available{whose}: {guests} guest{'s'[: guests != 1]} of 1GiB fit"
    if guests:
        return Finding("memory", "ok", seen)
    return Finding(
        "memory",
        "bad",
        seen,
        "end other programs, or use smaller guests: --set guest.memory=512MiB",
    )


def judge_disk(name: str, path: Path, free: int, writable: bool, elsewhere: str) -> Finding:
    """Judge the disk of `path`: `free` in bytes; `elsewhere`: advice on using another disk."""
    seen = f"{format_size(free)} free for {path}"
    if not writable:
        return Finding(name, "bad", f"{path} is not writable", elsewhere)
    if free >= LITTLE_DISK:
        return Finding(name, "ok", seen)
    state: Literal["warn", "bad"] = "warn" if free >= TOO_LITTLE_DISK else "bad"
    return Finding(name, state, seen, f"free some space, or {elsewhere}")


def read_disk(name: str, path: Path, elsewhere: str) -> Finding:
    """Judge the disk that holds, or will hold, the directory `path`."""
    for existing in (path, *path.absolute().parents):
        try:
            free = shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:  # a directory on the way may not be entered
            return judge_disk(name, path, 0, False, elsewhere)
        return judge_disk(name, path, free, os.access(existing, os.W_OK | os.X_OK), elsewhere)
    return Finding(name, "bad", f"{path}: no directory of this path exists", elsewhere)


def read_memory(guest_need: int, share: float) -> Finding:
    """Judge how many guests of `guest_need` bytes fit into `share` (0..1) of available memory."""
    charge = memory_file(os.getpid())
    limit = group_room(charge) if charge is not None else None
    try:
        available = HostNoiseReader().read().mem_available
    except ObserveError as error:
        return Finding("memory", "warn", error.message, "mount a complete procfs on /proc")
    room = available if limit is None else min(available, limit)
    return judge_memory(available, limit, int(room * share) // guest_need)


def read_host(
    support: ScanSupport, proc: Path = Path("/proc"), sys: Path = Path("/sys")
) -> Iterator[Finding]:
    """Judge what procfs and sysfs show; `support`: what PAGEMAP_SCAN does on this kernel."""
    yield judge_kernel(os.uname().release, support)
    yield judge_thp(_read(sys / THP / "enabled"), _read(sys / THP / "defrag"))
    yield judge_swap(_read(proc / "swaps"))
    yield judge_ksm(_read(sys / KSM / "run"), _read(sys / KSM / "pages_sharing"))
    yield judge_cgroup(_read(proc / "self" / "cgroup") or "", memory_file(os.getpid()))


def _chosen(text: str | None) -> str | None:
    """Return the word in brackets, as in `always [madvise] never`."""
    match = _CHOSEN.search(text or "")
    return match[1] if match is not None else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
