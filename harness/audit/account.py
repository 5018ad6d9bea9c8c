# SPDX-License-Identifier: Apache-2.0
"""Accounts for every byte that the host holds for a VM, from readings of both sides. Pure.

Each resident page of guest RAM is in exactly one part, by the guest's state of it
(`harness.kernel.oracle.classify`) and, if it is in use, by its kind.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.audit.both_sides import BothSides, PagesPart
from harness.audit.guest_told import GuestFacts
from harness.audit.host_side import HostSide
from harness.kernel.blocks import BoolArray
from harness.kernel.losses import collapsible
from harness.kernel.oracle import CELLS, PageClasses, classify
from harness.kernel.page_kinds import PageKind
from harness.kernel.pages import HostState
from harness.kernel.zones import MAX_ORDER, NO_ZONE, Zone, above_watermark
from harness.measure.retention import huge_pool, percpu_free, retained
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
_WRITTEN = (PageKind.ANONYMOUS, PageKind.FILE, PageKind.SHMEM, PageKind.PAGE_TABLE)
"""What is in use and has these kinds, the guest has certainly written."""

PART_PAGES = 1 << 18
"""Page frames that are looked at together, 1 GiB; a multiple of the largest block."""

_Sum = tuple[str, int]
"""What is summed up, and of which kind or order; 0 where there is only one."""

_SUMMED = (
    *("below_watermark", "waiting", "reported", "collapsible", "ballooned", "changing", "hidden"),
    *("given_back", "absent_free", "absent_used", "absent_written", "written"),
)
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


def guest_account(sides: BothSides, facts: GuestFacts) -> GuestAccount:
    """Account for guest RAM page by page."""
    zones, order = facts.counters.zones, facts.balloon.page_reporting_order
    sums: Counter[_Sum] = Counter()
    for start, end in _parts_of_memory(zones, sides.pages):
        there = [_moved(zone, start, end - start) for zone in zones]
        sums += _sums(sides.part(start, end), there, order)

    def by_number(name: str) -> dict[int, int]:
        found = {int(number): size for (what, number), size in sums.items() if what == name}
        return dict(sorted(found.items()))

    used = {name: sums["used", kind] for kind, name in _KINDS.items()}
    per_cpu = min(percpu_free(zones), used["kernel"])
    used["kernel"] -= per_cpu
    return GuestAccount(
        used=used,
        per_cpu=per_cpu,
        below_order=by_number("below_order"),
        watermark_orders=by_number("watermark_order"),
        huge_pool_unused=huge_pool(facts.counters),
        deferred_split=retained(facts.counters, None)["deferred_split_bytes"],
        **{name: sums[name, 0] for name in _SUMMED},
    )


def _parts_of_memory(zones: Sequence[Zone], pages: int) -> Iterator[tuple[int, int]]:
    """Divide the page frames into ranges [start, end), to compute little at a time.

    No block of the buddy allocator spans two parts. Where zones overlap, the longer gives way, of
    which a part cannot know.
    """
    bounds = sorted((zone.start_pfn, zone.start_pfn + zone.spanned) for zone in zones)
    apart = all(end <= start for (_, end), (start, _) in itertools.pairwise(bounds))
    step = PART_PAGES if apart else max(pages, 1)
    for start in range(0, pages, step):
        yield start, min(start + step, pages)


def _moved(zone: Zone, start: int, pages: int) -> Zone:
    """The zone as the `pages` page frames from `start` on show it."""
    first = min(max(zone.start_pfn - start, 0), pages)
    end = min(max(zone.start_pfn + zone.spanned - start, first), pages)
    return replace(zone, start_pfn=first, spanned=end - first)


def _sums(pages: PagesPart, zones: Sequence[Zone], order: int) -> Counter[_Sum]:
    """Sum up a part of the page frames: bytes by what they are."""
    host = pages.host
    classes = classify(pages.before, host, pages.after, zones, order)
    held = (host == HostState.RESIDENT) | (host == HostState.SWAPPED)
    used = _in_cells(classes, "used_resident", "used_absent", "held_absent")
    written = used & np.isin(pages.kinds, _WRITTEN)
    small = _in_cells(classes, "free_small_resident", "free_small_absent")
    watched = np.array([True, *(above_watermark(zone, order) for zone in zones)])[classes.zones]
    reported = _in_cells(classes, "reported_resident", "reported_absent")
    large = _in_cells(classes, *_FREE_LARGE)
    masks = {
        "below_watermark": small & held & ~watched,
        "waiting": large & held,
        "reported": reported & held,
        "collapsible": collapsible(reported, held),
        "ballooned": _in_cells(classes, "offline_resident", "offline_absent") & held,
        "changing": _in_cells(classes, "unstable") & held,
        "hidden": _in_cells(classes, "nothing") & held,
        "given_back": reported & ~held,
        "absent_free": (small | large) & ~held,
        "absent_used": used & ~held,
        "absent_written": written & (host == HostState.ABSENT),
        "written": written,
    }
    found: Counter[_Sum] = Counter({(name, 0): _bytes(mask) for name, mask in masks.items()})
    for kind in _KINDS:
        found["used", int(kind)] = _bytes(used & held & (pages.kinds == kind))
    orders = np.bincount(classes.orders[small & held & watched])
    for number, count in enumerate(orders.tolist()):
        found["below_order", number] = count * PAGE_SIZE
    for index, zone in enumerate(zones, NO_ZONE + 1):
        enough = (k for k in range(min(order, MAX_ORDER), -1, -1) if above_watermark(zone, k))
        highest = next(enough, None)
        if highest is not None and not above_watermark(zone, order):
            found["watermark_order", highest] += _bytes(small & held & (classes.zones == index))
    return +found


def _in_cells(classes: PageClasses, *names: str) -> BoolArray:
    """Find the pages of some of the oracle's cells."""
    wanted: BoolArray = np.isin(CELLS, names)
    return wanted[classes.cells]


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
