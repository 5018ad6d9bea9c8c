# SPDX-License-Identifier: Apache-2.0
"""Read the memory charge of a process's control group, its limits and its OOM kills."""

import re
from pathlib import Path

_FILES = {"cgroup2": "memory.current", "cgroup": "memory.usage_in_bytes"}
_LIMITS = {"memory.current": "memory.max", "memory.usage_in_bytes": "memory.limit_in_bytes"}
_V1_LIMITS_FROM = 1 << 60
"""cgroup v1 shows "no limit" as the largest multiple of a page in a signed 64-bit number."""

_IDLE_CACHE = {"memory.current": "inactive_file", "memory.usage_in_bytes": "total_inactive_file"}
"""Fields of memory.stat, for a group and those below it: charged, and reclaimed before all else."""


def memory_file(pid: int) -> Path | None:
    """Find memory.current (v2) or memory.usage_in_bytes (v1) of the group of `pid`, if readable.

    If both hierarchies are mounted, the one with the memory controller counts
    (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst; mountinfo: proc(5)).
    """
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return None
    for candidate in candidates(groups, mounts):
        try:
            int(candidate.read_text())
        except (OSError, ValueError):
            continue
        return candidate
    return None


def candidates(groups: str, mounts: str) -> list[Path]:
    """List possible paths of that file; takes the text of /proc/PID/cgroup and PID/mountinfo."""
    paths: dict[str, str] = {}
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    found = []
    for mount in mounts.splitlines():
        match = re.match(r"\d+ \d+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$", mount)
        if match is None:
            continue
        root, point, kind, options = match.groups()
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        group = paths[kind]
        if root != "/" and (group == root or group.startswith(root + "/")):
            group = group[len(root) :]
        found.append(Path(point) / group.lstrip("/") / _FILES[kind])
    return found


def group_room(charge: Path) -> int | None:
    """Return the bytes that a control group and its ancestors still allow; None without a limit.

    `charge` is the group's memory.current (v2) or memory.usage_in_bytes (v1). Idle page cache
    counts as room, as it does in MemAvailable.
    """
    rooms = []
    for directory in charge.parents:
        used = _read(directory / charge.name)
        limit = _read(directory / _LIMITS[charge.name])
        if not used or not limit:
            break
        if limit.strip() != "max" and int(limit) < _V1_LIMITS_FROM:
            stat = _read(directory / "memory.stat")
            idle = re.search(rf"^{_IDLE_CACHE[charge.name]} (\d+)$", stat, re.MULTILINE)
            taken = int(used) - (int(idle[1]) if idle else 0)
            rooms.append(max(0, int(limit) - max(0, taken)))
    return min(rooms, default=None)


def oom_kills(charge: Path) -> int:
    """Return the number of OOM kills in a control group; 0 if it is unknown.

    `charge` is the group's memory.current (v2) or memory.usage_in_bytes (v1). The count is
    `oom_kill` of memory.events (v2, groups below included) or of memory.oom_control (v1, since
    Linux 4.13).
    """
    name = "memory.events" if charge.name == "memory.current" else "memory.oom_control"
    return _counter(charge.with_name(name))


def host_oom_kills(root: Path = Path("/")) -> int:
    """Return the number of OOM kills on this host (`oom_kill` of /proc/vmstat, Linux 4.13)."""
    return _counter(root / "proc/vmstat")


def _counter(path: Path) -> int:
    match = re.search(r"^oom_kill (\d+)$", _read(path), re.MULTILINE)
    return int(match[1]) if match else 0


def _read(path: Path) -> str:
    """Return the text of a file, or "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
