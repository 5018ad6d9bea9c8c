# SPDX-License-Identifier: Apache-2.0
"""Accounts for every byte that the host holds for a VM, from readings of both sides. Pure.

Each resident page of guest RAM is in exactly one part, by the guest's state of it
(`harness.kernel.oracle.classify`) and, if it is in use, by its kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.audit.guest_told import GuestFacts
from harness.audit.host_side import HostSide
from harness.kernel.blocks import BoolArray
from harness.kernel.losses import collapsible
from harness.kernel.oracle import CELLS, PageClasses, classify
from harness.kernel.page_kinds import PageKind
from harness.kernel.pages import HostState, StateArray
from harness.kernel.zones import MAX_ORDER, NO_ZONE, Zone, above_watermark
from harness.measure.retention import huge_pool, percpu_free, retained
from harness.record.audit_file import AuditReading
from harness.units import MIB, PAGE_SIZE

Group = Literal["used", "free", "other", "qemu", "host"]
"""Guest RAM in use by the guest, free in the guest, neither; QEMU's own memory; the rest."""

STRANGE_SHARE = 0.05
STRANGE_BYTES = 16 * MIB
"""The guest's own pages that may be absent in any VM: a kernel marks a few MiB as written that it
has not touched."""

_KINDS = {
    PageKind.ANONYMOUS: "anonymous",
    PageKind.FILE: "page_cache",
    PageKind.SHMEM: "shmem",
    PageKind.SLAB: "slab",
    PageKind.PAGE_TABLE: "page_tables",
    PageKind.HUGETLB: "huge_pool",
    PageKind.KERNEL: "kernel",
}
_FREE_LARGE = ("free_large_resident", "free_large_absent", "free_new_resident", "free_new_absent")


@dataclass(frozen=True)
class Part:
    """One part of the host's memory for a VM."""

    group: Group
    name: str
    """`harness.audit.part_words` says it in words."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class GuestAccount:
    """Guest RAM by its use in the guest, in bytes that the host holds unless said otherwise."""

    used: dict[str, int]
    """In use, by kind; without what is on the per-CPU lists."""
    per_cpu: int
    """Free on the guest's per-CPU lists, which look like the kernel's own pages; at most."""
    below_order: dict[int, int]
    """Free in blocks below the reporting order, by the order of the block."""
    below_watermark: int
    """Free in zones below their watermark, from which the guest does not report."""
    watermark_orders: dict[int, int]
    """The part of `below_watermark` in zones from which it would report at a lower order, by the
    highest such order."""
    waiting: int
    """Free in blocks that the next passes report, if the guest reports."""
    reported: int
    """Reported, and resident nevertheless."""
    collapsible: int
    """The part of `reported` in huge pages that the host's khugepaged may have filled in."""
    ballooned: int
    """In the balloon or not online, and resident nevertheless."""
    changing: int
    """Of pages that changed hands during the audit."""
    hidden: int
    """Guest RAM that the guest's kernel does not count as memory: firmware, a crash kernel."""
    huge_pool_unused: int
    """The unused part of the guest's pool of huge pages, held by the host or not."""
    deferred_split: int
    """Estimate of freed parts of huge pages whose split the guest defers; part of `used`."""
    given_back: int
    """Not held by the host: reported by the guest."""
    absent_free: int
    """Not held by the host: free in the guest and not reported, so never touched, or given back and
    taken and freed again since."""
    absent_used: int
    """Not held by the host: in use in the guest and never touched."""
    absent_written: int
    """The part of `absent_used` that the guest has certainly written: none, in the same VM."""
    written: int
    """All that the guest has certainly written, held or not."""

    @property
    def missing(self) -> int:
        """Bytes that the host should hold and lacks; 0 while it is as little as in any VM."""
        most = max(STRANGE_BYTES, int(STRANGE_SHARE * self.written))
        return self.absent_written if self.absent_written > most else 0

    @property
    def small(self) -> int:
        """Bytes free in blocks below the order."""
        return sum(self.below_order.values())

    @property
    def free(self) -> int:
        """Bytes free in the guest that the host holds."""
        return self.per_cpu + self.small + self.below_watermark + self.waiting + self.reported


def classes_of(reading: AuditReading, facts: GuestFacts) -> PageClasses:
    """Find the oracle's cell of every page."""
    return classify(
        *(reading.before, reading.host, reading.after),
        *(facts.counters.zones, facts.balloon.page_reporting_order),
    )


def guest_account(
    reading: AuditReading, classes: PageClasses, kinds: StateArray, facts: GuestFacts
) -> GuestAccount:
    """Account for guest RAM page by page.

    `classes`: from `classes_of`; `kinds`: PageKind of the pages in use, by PFN, of the second
    reading of the guest.
    """
    zones, order = facts.counters.zones, facts.balloon.page_reporting_order
    held = (reading.host == HostState.RESIDENT) | (reading.host == HostState.SWAPPED)
    padded = np.zeros(len(held), np.uint8)
    padded[: len(kinds)] = kinds
    used = _in_cells(classes, "used_resident", "used_absent", "held_absent")
    written = used & np.isin(
        padded, (PageKind.ANONYMOUS, PageKind.FILE, PageKind.SHMEM, PageKind.PAGE_TABLE)
    )
    absent = reading.host == HostState.ABSENT
    small = _in_cells(classes, "free_small_resident", "free_small_absent")
    watched = np.array([True, *(above_watermark(zone, order) for zone in zones)])[classes.zones]
    reported = _in_cells(classes, "reported_resident", "reported_absent")
    large = _in_cells(classes, *_FREE_LARGE)
    by_kind = {name: _bytes(used & held & (padded == kind)) for kind, name in _KINDS.items()}
    per_cpu = min(percpu_free(zones), by_kind["kernel"])
    by_kind["kernel"] -= per_cpu
    orders = classes.orders[small & held & watched]
    return GuestAccount(
        used=by_kind,
        per_cpu=per_cpu,
        below_order={
            int(found): int(count) * PAGE_SIZE
            for found, count in enumerate(np.bincount(orders))
            if count
        },
        below_watermark=_bytes(small & held & ~watched),
        watermark_orders=_watermark_orders(small & held, classes, zones, order),
        waiting=_bytes(large & held),
        reported=_bytes(reported & held),
        collapsible=_bytes(collapsible(reported, held)),
        ballooned=_bytes(_in_cells(classes, "offline_resident", "offline_absent") & held),
        changing=_bytes(_in_cells(classes, "unstable") & held),
        hidden=_bytes(_in_cells(classes, "nothing") & held),
        huge_pool_unused=huge_pool(facts.counters),
        deferred_split=retained(facts.counters, None)["deferred_split_bytes"],
        given_back=_bytes(reported & ~held),
        absent_free=_bytes((small | large) & ~held),
        absent_used=_bytes(used & ~held),
        absent_written=_bytes(written & absent),
        written=_bytes(written),
    )


def _watermark_orders(
    free: BoolArray, classes: PageClasses, zones: Sequence[Zone], order: int
) -> dict[int, int]:
    found: dict[int, int] = {}
    for index, zone in enumerate(zones, NO_ZONE + 1):
        enough = (k for k in range(min(order, MAX_ORDER), -1, -1) if above_watermark(zone, k))
        highest = next(enough, None)
        if highest is not None and not above_watermark(zone, order):
            size = _bytes(free & (classes.zones == index))
            found[highest] = found.get(highest, 0) + size
    return found


def _in_cells(classes: PageClasses, *names: str) -> BoolArray:
    """Find the pages of some of the oracle's cells."""
    return np.isin(classes.cells, [CELLS.index(name) for name in names])


def parts_of(host: HostSide, guest: GuestAccount | None) -> tuple[Part, ...]:
    """List the parts, which add up to `host.total` with the last, what is unexplained.

    `guest`: None if only the host's side was read.
    """
    parts: list[Part] = []
    if guest is None:
        parts.append(Part("other", "guest_ram", host.ram.held))
    else:
        parts += (Part("used", name, size) for name, size in guest.used.items())
        parts += (
            Part("free", "per_cpu", guest.per_cpu),
            Part("free", "below_order", guest.small),
            Part("free", "below_watermark", guest.below_watermark),
            Part("free", "waiting", guest.waiting),
            Part("free", "reported", guest.reported),
            Part("other", "ballooned", guest.ballooned),
            Part("other", "changing", guest.changing),
            Part("other", "hidden", guest.hidden),
        )
    parts += (Part("qemu", name, size) for name, size in _own(host).items())
    parts.append(Part("host", "host_page_tables", host.counters.page_tables))
    rest = host.total - sum(part.size for part in parts)
    return (*parts, Part("host", "unexplained", rest))


def _own(host: HostSide) -> Mapping[str, int]:
    return {
        "heap": host.own.heap,
        "translated": host.own.translated,
        "devices": host.own.devices,
        "files": host.own.files,
        "shared": host.own.shared,
    }


def sum_of(parts: Sequence[Part], group: Group) -> int:
    """Sum the bytes of a group."""
    return sum(part.size for part in parts if part.group == group)


def _bytes(mask: BoolArray) -> int:
    return int(np.count_nonzero(mask)) * PAGE_SIZE
