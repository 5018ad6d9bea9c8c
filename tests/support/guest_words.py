# SPDX-License-Identifier: Apache-2.0
"""Builds the guest tool's output: counters, page states, the dialogue of a churn."""

import struct
import time
from collections.abc import Iterable, Sequence

import numpy as np
from fake_process import FakeProcess

from harness.guest import counter_stream, page_stream
from harness.kernel.pages import StateArray
from harness.kernel.zones import Zone
from harness.units import MIB, PAGE_SIZE


def counters(zones: Sequence[Zone], meminfo: str = "") -> bytes:
    """Build a frame of `fpr-guest counters`; `meminfo`: further lines of that."""
    zoneinfo = "".join(_zoneinfo(zone) for zone in zones)
    buddyinfo = "".join(
        f"Node {zone.node}, zone {zone.name:>8} {' '.join(map(str, zone.free_blocks))}\n"
        for zone in zones
    )
    texts = ("MemTotal: 1000 kB\nMemFree: 250 kB\n" + meminfo, "pgfault 12\n", buddyinfo, zoneinfo)
    head = struct.pack("<4sIQQQQ4I", b"FPRC", counter_stream.VERSION, 0, 0, 1, 1, *map(len, texts))
    return head + "".join(texts).encode()


def _zoneinfo(zone: Zone) -> str:
    fields = ("min", "low", "high", "spanned", "present", "managed")
    lines = [f"        {name} {getattr(zone, name)}" for name in fields]
    return "\n".join(
        [
            f"Node {zone.node}, zone {zone.name:>8}",
            f"  pages free {zone.free}",
            *lines,
            f"              count: {zone.per_cpu}",
            f"  start_pfn: {zone.start_pfn}",
            "",
        ]
    )


def pages(states: StateArray, rate: float = 1.0) -> bytes:
    """Build a round of `fpr-guest pages`; the guest's clock runs `rate` times as fast as ours."""
    now = int(time.monotonic() * 1e9 * rate)
    starts = np.flatnonzero(np.diff(states.astype(np.int64), prepend=-1))
    lengths = np.diff(starts, append=len(states))
    header = struct.pack(
        "<8sIIQQQQ",
        b"FPRPAGES",
        page_stream.VERSION,
        PAGE_SIZE,
        len(states),
        now,
        now + 1,
        len(starts),
    )
    return header + ((lengths << 3) | states[starts].astype(np.int64)).astype("<u4").tobytes()


def page_rounds(rounds: Iterable[StateArray], rate: float = 1.0) -> FakeProcess:
    """Make a process of `fpr-guest pages`; the last round is repeated from then on. `rate`: of the
    guest's clock, see `pages`."""
    first, *later = rounds
    coming = [first, *later]

    def reply(_asked: str) -> bytes:
        if len(coming) > 1:
            coming.pop(0)
        return pages(coming[0], rate)

    return FakeProcess(pages(first, rate), reply=reply)


def churn(
    size: int, *, pid: int = 77, mismatched: int = 0, freed: int | None = None
) -> FakeProcess:
    """The process of `fpr-guest churn`; `freed`: what it gives back of `size` when it is asked for
    a part."""
    held = size

    def reply(asked: str) -> str:
        nonlocal held
        if asked.startswith("verify"):
            head = "mismatch page=1\n" if mismatched else ""
            checked = f"verified bytes={held} mismatched_pages={mismatched}"
            return f"{head}{checked} damaged_entries=0 text_changed=0\n"
        if asked.startswith("free"):
            given = held if asked.startswith("free all") or freed is None else freed
            held -= given
            return f"freed bytes={given} blocks=0 held_bytes={held}\n"
        return ""

    return FakeProcess(f"filled pid={pid} bytes={size} seconds=0.5\n", reply=reply)


def witness(*, lost: int = 0) -> FakeProcess:
    """The process of `fpr-guest witness`; `lost`: pages of the kernel's code that are zeros."""
    size = 2 * MIB

    def reply(asked: str) -> str:
        assert asked.startswith("verify")
        head = "lost what=text address=0x1000000\n" if lost else ""
        canary = f"verified bytes={size} mismatched_pages=0 damaged_entries=0 text_changed=0\n"
        words = f"text_pages=9 text_lost={lost} text_patched=0 files=5 files_lost=0"
        return f"{head}{canary}witnessed {words}\n"

    filled = f"filled pid=78 bytes={size} seconds=0.1\n"
    return FakeProcess(f"{filled}witness text_pages=9 files=5\n", reply=reply)
