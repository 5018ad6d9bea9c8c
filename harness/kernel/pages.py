# SPDX-License-Identifier: Apache-2.0
"""The states of a guest's pages in the guest and on the host, and an audit reduced to bytes.

Sizes in bytes. `None` means *not measured*, never zero.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

StateArray = npt.NDArray[np.uint8]
"""One state per guest page frame number: index = PFN, value = GuestState or HostState."""


class GuestState(IntEnum):
    """The guest's state of one page; the values are those the guest tool sends."""

    USED = 0
    FREE = 1
    REPORTED = 2
    """As sent: the *head* of a reported free block. In `Blocks.states`: every page of it."""
    NO_PAGE = 3
    HELD = 4
    """Used, and mapped by the churn tool's process when read."""
    CONTENT = 5
    """Used and certainly written: anonymous memory, an up-to-date file page, or a page table."""
    OFFLINE = 6
    """In the balloon, or hot-plugged but not online (KPF_OFFLINE)."""


class Seen(IntEnum):
    """What earlier looks saw of a page."""

    NOTHING = 0
    RESIDENT_EARLIER = 1
    """Used and resident at an earlier audit, used ever since, but absent at the latest."""
    RESIDENT = 2
    """Used and resident at the latest audit."""
    FREE_RESIDENT = 3
    """Free, not reported and resident at the latest audit."""
    REPORTABLE_RESIDENT = 4
    """The same, in a block that could be reported."""
    REPORTABLE_ABSENT = 5
    """Free, not reported and absent at the latest audit, in a block that could be reported."""
    ON_HOST = 6
    """Resident at the latest look, which tells nothing else of it: the guest was not asked, or the
    page changed hands, was reported or offline."""


class HostState(IntEnum):
    """What the host holds of one guest page."""

    ABSENT = 0
    RESIDENT = 1
    SWAPPED = 2
    ZERO = 3
    """Mapped to the shared zero page: takes no memory, counts as absent."""
    UNKNOWN = 4
    """No RAM block of QEMU backs this PFN, or its state could not be read."""


@dataclass(frozen=True)
class CellTotals:
    """Bytes in each cell of the oracle's table (see docs/oracle.md), stable pages only."""

    used_resident: int
    used_absent: int
    free_small_resident: int
    """Free, but in a block below the order or in a zone below its watermark: expected to stay."""
    free_small_absent: int
    free_large_resident: int
    """Free, not reported, in a block of at least the order in a zone above its watermark."""
    free_large_absent: int
    reported_resident: int
    reported_absent: int
    held_absent: int
    """The part of used_absent that the churn tool has written and holds: data loss."""
    unstable: int
    """Pages whose guest state changed between the two readings; counted in no other cell."""
    unknown: int
    """Pages whose host state is unknown; counted in no other cell."""
    offline_resident: int | None = None
    """In the balloon or hot-plugged but not online, yet resident; None in records of older
    versions, which lack this cell."""
    offline_absent: int | None = None
    free_new_resident: int = 0
    """As free_large_resident, but the block was not yet free at an audit less than two reporting
    passes before: no pass may have had time for it. Older versions counted it there."""
    free_new_absent: int = 0

    @property
    def reported(self) -> int:
        """Bytes reported, held by the host or not."""
        return self.reported_resident + self.reported_absent

    @property
    def free(self) -> int:
        """Bytes free and not reported, held by the host or not."""
        return (
            self.free_small_resident
            + self.free_small_absent
            + self.free_large_resident
            + self.free_large_absent
            + self.free_new_resident
            + self.free_new_absent
        )


@dataclass(frozen=True)
class AuditReport:
    """A page audit reduced to totals: for the guest, and by zone, node and order."""

    at: float
    total: CellTotals
    per_zone: dict[str, CellTotals]
    """Key `node0/DMA32`."""
    per_node: dict[str, CellTotals]
    reported_by_order: dict[int, int]
    """Bytes in reported blocks of each order."""
    free_by_order: dict[int, int]
    """Bytes in free blocks of each order that are not reported."""
    suspect_bytes: int
    """Used and absent, but used and resident in an earlier audit: suspected, not proven, lost."""
    suspect_pfns: tuple[int, ...]
    """The first suspect pages (at most 16)."""
    reported_undiscarded: int | None
    """Reported bytes that no discard in QEMU's trace ever covered, or none since they were last
    seen resident; None without a trace."""
    guest_seconds: float
    host_seconds: float
    reported_resident_pfns: tuple[int, ...] = ()
    """The first reported and resident pages (at most 16), for a look at them."""
    held_absent_pfns: tuple[int, ...] = ()
    """The first held and absent pages (at most 16)."""
    tail_reported: int | None = None
    """Reported bytes in zone tails: the incomplete block of the order at the end of a zone."""
    nearly_free: int = 0
    """Free bytes in blocks of the order with few pages in use (harness.kernel.blocks.FEW)."""
    nearly_free_lack: int = 0
    """Pages in use in all these blocks together."""
    tail_discarded: int | None = None
    """Bytes in zone tails that a discard in QEMU's trace ever covered; None without a trace."""
    collapsible: int = 0
    """Reported and resident, in a huge page of the host that is entirely resident but not entirely
    given back: khugepaged or a page fault may have filled it (`harness.kernel.losses`)."""
    offline_collapsible: int = 0
    """The same of memory in the balloon, or plugged and not in use."""
    lost_bytes: int | None = None
    """Used and absent, with the content certainly lost (`harness.kernel.losses`): data loss. None
    in records of older versions, which do not judge it."""
    lost_undiscarded: int = 0
    """The part of `lost_bytes` for which QEMU's trace shows no discard."""
    lost_pfns: tuple[int, ...] = ()
    """The first lost pages (at most 16)."""
    listed: int | None = None
    """Bytes of memory in the guest's list, in any state; None in records of older versions."""
    present: int | None = None
    """Bytes of memory present in the guest's zones (`present` in /proc/zoneinfo)."""
    withheld: int | None = None
    """Bytes used in whole blocks that were given back to the host and not touched since
    (`harness.kernel.losses.withheld`); None without a trace."""
    free_undiscarded: int | None = None
    """Bytes free and unreported in blocks of at least the order, above the watermark, that no
    discard in QEMU's trace ever covered, held by the host or not; None without a trace."""
