# SPDX-License-Identifier: Apache-2.0
"""Make the host reclaim memory from this guest's QEMU, as it does under memory pressure."""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np

from harness.act.guest import Guest, Machine
from harness.errors import PreconditionError
from harness.machine.host_pressure import page_out, reclaim_v2
from harness.observe.instruments import Instruments
from harness.record.events import Pressed
from harness.scenario.steps import Verb
from harness.units import PAGE_SIZE, format_size


class Pressure(Verb):
    """Makes the host reclaim the lazily free memory (MADV_FREE) of this guest's QEMU. If this host
    cannot, the run is a SKIP that gives all reasons.
    """

    verb: ClassVar[str] = "pressure"
    real_clock: ClassVar[str] = "the host reclaims in its own time"
    moves_memory: ClassVar[bool] = True
    needs_memory_group: ClassVar[bool] = True
    by: Literal["any", "process-madvise", "cgroup-reclaim", "cgroup-limit"] = "any"
    """How to reclaim: `process-madvise` is MADV_PAGEOUT and needs CAP_SYS_NICE, `cgroup-reclaim`
    needs cgroup v2 and Linux 5.19, `cgroup-limit` needs cgroup v1; `any` is the first that works.
    """

    def perform(self, guest: Guest) -> None:
        """Try each way until one works.

        Raises `PreconditionError` with all reasons if none works, and what the instruments raise.
        """
        instruments, record = guest.instruments, guest.record
        instruments.discards.read()
        before = instruments.mapping.read()
        guest.phase("pressure", f"{format_size(before.lazyfree)} are lazily free")
        size = before.lazyfree
        ways: dict[str, Callable[[], None]] = {
            "process-madvise": lambda: page_out(guest.vm.pid, discarded_ranges(instruments)),
            "cgroup-reclaim": lambda: reclaim_v2(guest.vm.pid, size),
            "cgroup-limit": lambda: _limit(guest.vm, size),
        }
        refusals = []
        start = record.now()
        for name in ways if self.by == "any" else [self.by]:
            try:
                ways[name]()
            except PreconditionError as error:
                refusals.append(f"{name}: {error.message}")
                continue
            now, after = record.now(), instruments.mapping.read()
            record.add(Pressed(now, by=name, seconds=now - start, before=before, after=after))
            return
        raise PreconditionError(
            f"this host cannot reclaim memory from a single process: {'; '.join(refusals)}",
            hint="run as root, or in a memory control group that you own",
        )


def discarded_ranges(instruments: Instruments) -> list[tuple[int, int]]:
    """Return host addresses [low, high) of all that QEMU has discarded."""
    covered = instruments.discards.covered
    ranges = []
    for piece in instruments.layout.pieces:
        pages = covered[piece.pfn_start : piece.pfn_end].astype(np.int8)
        edges = np.flatnonzero(np.diff(pages, prepend=0, append=0))
        for first, last in edges.reshape(-1, 2).tolist():
            ranges.append((piece.hva + first * PAGE_SIZE, piece.hva + last * PAGE_SIZE))
    return ranges


def _limit(vm: Machine, size: int) -> None:
    if vm.memory_group is None:
        raise PreconditionError(vm.no_memory_group)
    vm.memory_group.press(size)
