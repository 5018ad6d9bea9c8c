# SPDX-License-Identifier: Apache-2.0
"""Builds what an audit of a foreign VM starts from: facts of both sides, and page states."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.audit.audit_document import Audit, from_json
from harness.audit.both_sides import BothSides
from harness.audit.guest_told import GuestFacts
from harness.audit.host_side import BlockCounts, HostSide, ProcessCounters, RamHeld
from harness.audit.own_memory import OwnMemory
from harness.guest.page_stream import PageRuns
from harness.kernel.pages import HostState, StateArray
from harness.kernel.zones import Zone
from harness.observe.features import BalloonState
from harness.record.facts import GuestCounters
from harness.units import GIB, MIB

DATA = Path(__file__).parents[1] / "data" / "audit"


def recorded() -> Audit:
    """An audit of both sides of a guest at rest, as `--json` wrote it."""
    return from_json((DATA / "audit.json").read_bytes(), "audit.json")


def zone(
    *, spanned: int, free: int = 0, low: int = 100, per_cpu: int = 0, start_pfn: int = 0
) -> Zone:
    return Zone(
        node=0,
        name="Normal",
        start_pfn=start_pfn,
        spanned=spanned,
        present=spanned,
        managed=spanned,
        free=free,
        min=low // 2,
        low=low,
        high=2 * low,
        free_blocks=(0,) * 11,
        per_cpu=per_cpu,
    )


def facts(zones: Sequence[Zone], order: int = 9) -> GuestFacts:
    features = "000001" + "0" * 58
    return GuestFacts(
        release="6.1.0",
        uuid="",
        boot_id="",
        cmdline="",
        counters=GuestCounters(0.0, {"MemTotal": GIB}, {}, tuple(zones)),
        balloon=BalloonState(True, features, "virtio_balloon", order, 2.0),
        kernel_reports="yes",
        offline=(),
        page_flags=True,
        lockdown="",
    )


def runs(kinds: StateArray) -> PageRuns:
    """Pages as the guest tool sends them."""
    starts = np.flatnonzero(np.diff(kinds, prepend=kinds[:1] + 1))
    lengths = np.diff(starts, append=len(kinds)).astype(np.uint32)
    return PageRuns(kinds[starts], lengths, 0, 100_000_000)


def reading(
    kinds: StateArray, host: StateArray | None = None, before: StateArray | None = None
) -> BothSides:
    """Both sides of pages that stay as they are unless `before` says otherwise; all are resident
    unless `host` says otherwise."""
    if host is None:
        host = np.full(len(kinds), HostState.RESIDENT, np.uint8)
    return BothSides(runs(kinds if before is None else before), host, runs(kinds))


def host_side(*, held: int = 256 * MIB, locked: int = 0, translated: int = 0) -> HostSide:
    own = OwnMemory(heap=20 * MIB, translated=translated, devices=0, files=10 * MIB, shared=0)
    counters = ProcessCounters(rss=held + own.total, swap=0, page_tables=MIB, locked=locked)
    return HostSide(
        seconds=0.01,
        total=counters.rss + counters.page_tables,
        counters=counters,
        ram=RamHeld(
            size=GIB,
            held=held,
            swapped=0,
            merged=0,
            huge=0,
            lazily_free=0,
            backed_by_file=False,
        ),
        own=own,
        blocks=BlockCounts(full=128, partly=0, partly_bytes=0, empty=384),
        charged_to_group=None,
    )


def with_account(audit: Audit, **changes: object) -> Audit:
    """The audit with other figures in the guest's account."""
    assert audit.guest is not None
    assert audit.guest.account is not None
    account = replace(audit.guest.account, **changes)  # type: ignore[arg-type]
    return replace(audit, guest=replace(audit.guest, account=account))
