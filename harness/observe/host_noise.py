# SPDX-License-Identifier: Apache-2.0
"""Host-wide counters of what can move guest memory without reporting: swap, reclaim, THP."""

import re
import time
from pathlib import Path

from harness.errors import ObserveError
from harness.record.facts import HostNoise
from harness.units import KIB

_COUNTER = re.compile(r"^(\w+) (\d{1,20})$", re.MULTILINE)
_SOME = re.compile(r"^some .*\btotal=(\d{1,20})$", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d{1,20}) kB$", re.MULTILINE)


def parse_noise(at: float, vmstat: str, meminfo: str, pressure: str | None) -> HostNoise:
    """Parse /proc/vmstat, /proc/meminfo and /proc/pressure/memory (None: no PSI), read at `at`.

    Raises ObserveError if MemAvailable (Linux 3.14) is missing.
    """
    available = _AVAILABLE.search(meminfo)
    if available is None:
        raise ObserveError(f"/proc/meminfo has no MemAvailable: {meminfo[:200]!r}")
    counters = {name: int(value) for name, value in _COUNTER.findall(vmstat)}
    some = _SOME.search(pressure) if pressure is not None else None
    return HostNoise(
        at=at,
        pswpin=counters.get("pswpin"),
        pswpout=counters.get("pswpout"),
        pgsteal_kswapd=counters.get("pgsteal_kswapd"),
        thp_collapse=counters.get("thp_collapse_alloc"),
        psi_memory_some_us=int(some[1]) if some is not None else None,
        mem_available=int(available[1]) * KIB,
        lazyfreed=counters.get("pglazyfreed"),
    )


class HostNoiseReader:
    """Reads the counters of the host; `proc` is where its procfs is mounted."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def read(self) -> HostNoise:
        """Read all counters. Raises ObserveError if /proc/vmstat or /proc/meminfo is unreadable."""
        at = time.monotonic()
        try:
            vmstat = (self._proc / "vmstat").read_text()
            meminfo = (self._proc / "meminfo").read_text()
        except OSError as error:
            raise ObserveError(f"cannot read the host's memory counters: {error}") from error
        try:
            pressure = (self._proc / "pressure" / "memory").read_text()
        except OSError:  # a kernel without PSI, or with psi=0
            pressure = None
        return parse_noise(at, vmstat, meminfo, pressure)
