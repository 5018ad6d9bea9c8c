# SPDX-License-Identifier: Apache-2.0
"""What a guest says of itself in text: one shell script, and how to read what it prints. Pure."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from harness.errors import ObserveError
from harness.guest.memory_blocks import OFFLINE_SCRIPT, parse_offline
from harness.guest.proc_text import parse_meminfo, parse_vmstat, parse_zones
from harness.observe.features import BALLOON_COMMAND, BalloonState, parse_state
from harness.record.facts import GuestCounters

Reporting = Literal["yes", "no", "unknown"]

_FILES = {
    "meminfo": "/proc/meminfo",
    "vmstat": "/proc/vmstat",
    "buddyinfo": "/proc/buddyinfo",
    "zoneinfo": "/proc/zoneinfo",
    "cmdline": "/proc/cmdline",
    "uuid": "/sys/class/dmi/id/product_uuid",
    "boot": "/proc/sys/kernel/random/boot_id",
    "lockdown": "/sys/kernel/security/lockdown",
}
"""Each section of the answer that is a file of the guest's."""

MARK = "== fpr-audit: "

# Only built-ins and cat: a guest's busybox may lack other applets.
FACTS_SCRIPT = "\n".join(
    [
        f'section() {{ echo "{MARK}$1"; }}',
        "echo",  # a greeting may lack the end of its line
        "section uname; uname -rm",
        *(f"section {name}; cat {path} 2>/dev/null" for name, path in _FILES.items()),
        "section balloon",
        f"({BALLOON_COMMAND.strip()}\n)",
        "section blocks",
        OFFLINE_SCRIPT,
        "section reporting",
        "if [ -d /sys/module/page_reporting ]; then echo built=yes",
        # Only where nothing else tells: sh(1) reads a long file byte by byte, 0.2 s without
        # emulation. config.gz is left out: not every guest can unpack it.
        'else config="/boot/config-$(uname -r)"; if command -v grep > /dev/null',
        'then grep -s CONFIG_PAGE_REPORTING "$config"',
        'else while read -r line; do case "$line" in *CONFIG_PAGE_REPORTING*) echo "$line";; esac',
        'done 2>/dev/null < "$config"; fi; fi',
        "section pageflags",
        "[ -r /proc/kpageflags ] && echo readable",
    ]
)
"""Prints all sections; the guest's root must run it."""

_CONFIG = {"CONFIG_PAGE_REPORTING=y": "yes", "# CONFIG_PAGE_REPORTING is not set": "no"}
_SECTION = re.compile(rf"^{MARK}([a-z]+)\n", re.MULTILINE)


@dataclass(frozen=True)
class GuestFacts:
    """A guest's answers."""

    release: str
    """Of its kernel."""
    uuid: str
    """Of the machine, in small letters; empty if its firmware shows none."""
    boot_id: str
    cmdline: str
    counters: GuestCounters
    balloon: BalloonState
    kernel_reports: Reporting
    """Whether its kernel was built with CONFIG_PAGE_REPORTING."""
    offline: tuple[range, ...]
    """PFNs of each memory block that it has put offline."""
    page_flags: bool
    """It has a /proc/kpageflags, so that the state of each page can be read."""
    lockdown: str
    """The mode of kernel lockdown; empty without it."""


def parse_facts(text: str, *, offered: bool, at: float) -> GuestFacts:
    """Parse what `FACTS_SCRIPT` printed.

    `offered`: the balloon offers reporting; `at`: when it was printed, in seconds of any clock.
    Raises `ObserveError` for text that makes no sense, and for a guest of another architecture.
    """
    parts = _SECTION.split(text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    release, _, machine = sections.get("uname", "").strip().partition(" ")
    if machine != "x86_64":
        raise ObserveError(
            f"the guest says that it is {machine or 'nothing known'}, not x86_64: {text!r:.200}",
            hint="only guests of x86_64 can be audited",
        )

    def section(name: str) -> str:
        return sections.get(name, "")

    lockdown = re.search(r"\[(\w+)\]", section("lockdown"))
    return GuestFacts(
        release=release,
        uuid=section("uuid").strip().lower(),
        boot_id=section("boot").strip(),
        cmdline=section("cmdline").strip(),
        counters=GuestCounters(
            at=at,
            meminfo=parse_meminfo(section("meminfo")),
            vmstat=parse_vmstat(section("vmstat")),
            zones=parse_zones(section("zoneinfo"), section("buddyinfo")),
        ),
        balloon=parse_state(section("balloon"), offered=offered, most_pass_seconds=math.inf),
        kernel_reports=_kernel_reports(section("reporting")),
        offline=parse_offline(section("blocks")),
        page_flags="readable" in section("pageflags"),
        lockdown=lockdown[1] if lockdown and lockdown[1] != "none" else "",
    )


def _kernel_reports(text: str) -> Reporting:
    if "built=yes" in text.splitlines():
        return "yes"
    for line in text.splitlines():
        if line in _CONFIG:
            return "yes" if _CONFIG[line] == "yes" else "no"
    return "unknown"
