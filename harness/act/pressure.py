# SPDX-License-Identifier: Apache-2.0
"""Make the host take memory from this guest's QEMU, as it would if it were short of it."""

from collections.abc import Callable

import numpy as np

from harness.act.session import GuestSession
from harness.errors import PreconditionError
from harness.machine.host_pressure import page_out, reclaim_v2
from harness.record.events import Pressed
from harness.scenario.steps import PressureStep
from harness.units import PAGE_SIZE, format_size


def pressure(session: GuestSession, step: PressureStep) -> None:
    """By the way the step names, or by the first that this host can do.

    Each is tried for real. Raises `PreconditionError` with every reason if none can be done.
    """
    session.discards.read()
    before = session.mapping.read()
    session.phase("pressure", f"{format_size(before.lazyfree)} are lazily free")
    size = before.lazyfree
    ways: dict[str, Callable[[], None]] = {
        "process-madvise": lambda: page_out(session.vm.pid, discarded_ranges(session)),
        "cgroup-reclaim": lambda: reclaim_v2(session.vm.pid, size),
        "cgroup-limit": lambda: _limit(session, size),
    }
    refusals = []
    start = session.record.now()
    for name in ways if step.by == "any" else [step.by]:
        try:
            ways[name]()
        except PreconditionError as error:
            refusals.append(f"{name}: {error.message}")
            continue
        now = session.record.now()
        after = session.mapping.read()
        session.record.add(Pressed(now, by=name, seconds=now - start, before=before, after=after))
        return
    raise PreconditionError(
        f"this host cannot press memory out of one process: {'; '.join(refusals)}",
        hint="run as root, or in a control group of yours",
    )


def discarded_ranges(session: GuestSession) -> list[tuple[int, int]]:
    """Host addresses [low, high) of all that QEMU has discarded; the rest may be in use."""
    covered = session.discards.covered
    ranges = []
    for piece in session.layout.pieces:
        pages = covered[piece.pfn_start : piece.pfn_end].astype(np.int8)
        edges = np.flatnonzero(np.diff(pages, prepend=0, append=0))
        for first, last in edges.reshape(-1, 2).tolist():
            ranges.append((piece.hva + first * PAGE_SIZE, piece.hva + last * PAGE_SIZE))
    return ranges


def _limit(session: GuestSession, size: int) -> None:
    if session.vm.memory_group is None:
        raise PreconditionError(session.vm.no_memory_group)
    session.vm.memory_group.press(size)
