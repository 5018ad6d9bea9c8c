# SPDX-License-Identifier: Apache-2.0
"""The file that says what a process's control group is charged with."""

import re
from pathlib import Path

_FILES = {"cgroup2": "memory.current", "cgroup": "memory.usage_in_bytes"}


def memory_file(pid: int) -> Path | None:
    """memory.current (v2) or memory.usage_in_bytes (v1) of the group of `pid`, if readable.

    Where both hierarchies exist, the one with the memory controller counts
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
    """Where the file may lie, by the text of /proc/PID/cgroup and /proc/PID/mountinfo."""
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
