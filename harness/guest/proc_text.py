# SPDX-License-Identifier: Apache-2.0
"""Parses the text of the guest's /proc files. Pure; raises `ObserveError` for anything unexpected.

The guest may be hostile, so every pattern must take time linear in the length of the text: no
repetition matches across the end of a line, where the next attempt starts.
"""

import re

from harness.errors import ObserveError
from harness.kernel.zones import Zone

# A counter has 64 bits, so at most 20 digits. int() refuses thousands of digits.
_NUMBER = r"([0-9]{1,20})"

MOST_ZONES = 1024 * 6
"""MAX_NUMNODES of x86 (CONFIG_NODES_SHIFT 10) times MAX_NR_ZONES (include/linux/mmzone.h)."""

MOST_PAGES = 1 << 40
"""Page frames in the 52-bit physical address space of x86_64: no zone counts more."""

_MEMINFO = re.compile(rf"^([A-Za-z0-9_()]+): +{_NUMBER}( kB)?$", re.MULTILINE)
_VMSTAT = re.compile(rf"^(\w+) {_NUMBER}$", re.MULTILINE)
_BUDDY = re.compile(
    rf"^Node {_NUMBER}, zone +(\w+)((?: +[0-9]{{1,20}}(?![0-9]))+) *$", re.MULTILINE
)
_ZONE = re.compile(rf"^Node {_NUMBER}, zone +(\w+) *$", re.MULTILINE)
_PER_CPU = re.compile(rf"^ +count: +{_NUMBER} *$", re.MULTILINE)
_FIELD = re.compile(
    rf"^ +(?:pages )?(free|min|low|high|spanned|present|managed|start_pfn):? +{_NUMBER} *$",
    re.MULTILINE,
)


def parse_meminfo(text: str) -> dict[str, int]:
    """Parse /proc/meminfo into bytes by field; fields without a unit (HugePages_*) are counts."""
    found = {
        name: int(number) * (1024 if unit else 1) for name, number, unit in _MEMINFO.findall(text)
    }
    if "MemTotal" not in found:
        raise ObserveError("the guest's meminfo has no MemTotal")
    return found


def parse_vmstat(text: str) -> dict[str, int]:
    """Parse /proc/vmstat into counts by name (events or pages)."""
    found = {name: int(number) for name, number in _VMSTAT.findall(text)}
    if not found:
        raise ObserveError("the guest's vmstat is empty")
    return found


def parse_buddyinfo(text: str) -> dict[tuple[int, str], tuple[int, ...]]:
    """Parse /proc/buddyinfo into the number of free blocks per order, by (node, zone)."""
    return {
        (int(node), zone): tuple(int(count) for count in counts.split())
        for node, zone, counts in _BUDDY.findall(text)
    }


def parse_zones(zoneinfo: str, buddyinfo: str) -> tuple[Zone, ...]:
    """Parse /proc/zoneinfo and /proc/buddyinfo into zones, leaving out zones without pages.

    In zoneinfo, a zone's own fields come before those of its per-CPU lists, which have a `high` of
    their own: the first field of each name counts.
    """
    blocks = parse_buddyinfo(buddyinfo)
    headers = list(_ZONE.finditer(zoneinfo))
    if len(headers) > MOST_ZONES:
        raise ObserveError(
            f"the guest's zoneinfo lists {len(headers)} zones; no kernel has more than {MOST_ZONES}"
        )
    starts = [match.start() for match in headers]
    zones = []
    for header, end in zip(headers, [*starts[1:], len(zoneinfo)], strict=False):
        node, name = int(header[1]), header[2]
        fields: dict[str, int] = {}
        for field, number in _FIELD.findall(zoneinfo, header.end(), end):
            fields.setdefault(field, int(number))
        if not fields.get("present"):
            continue
        per_cpu = sum(map(int, _PER_CPU.findall(zoneinfo, header.end(), end)))
        if max(per_cpu, *fields.values(), *blocks.get((node, name), ())) > MOST_PAGES:
            raise ObserveError(
                f"the guest's zone {name} of node {node} counts more pages than an x86_64 machine "
                "can have"
            )
        try:
            zones.append(
                Zone(
                    node=node,
                    name=name,
                    start_pfn=fields["start_pfn"],
                    spanned=fields["spanned"],
                    present=fields["present"],
                    managed=fields["managed"],
                    free=fields["free"],
                    min=fields["min"],
                    low=fields["low"],
                    high=fields["high"],
                    free_blocks=blocks[node, name],
                    per_cpu=per_cpu,
                )
            )
        except KeyError as error:
            raise ObserveError(
                f"the guest's zoneinfo or buddyinfo lacks {error} for node {node}, zone {name}"
            ) from error
    if not zones:
        raise ObserveError("the guest's zoneinfo lists no zone with pages")
    return tuple(zones)
