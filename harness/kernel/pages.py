# SPDX-License-Identifier: Apache-2.0
"""The states of a guest's pages on both sides, and an audit of them reduced to bytes.

Sizes in bytes. `None` means *not measured*, never zero.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

StateArray = npt.NDArray[np.uint8]
"""One state per guest page frame number: index = PFN, value = GuestState or HostState."""


class GuestState(IntEnum):
    """What the guest says of one page (also the wire values of the guest tool)."""

    USED = 0
    FREE = 1
    REPORTED = 2
    """On the wire: the *head* of a reported free block. After expansion: every page of it."""
    NO_PAGE = 3
    HELD = 4
    """Used, and mapped by the churn tool's process at the moment of reading."""
    CONTENT = 5
    """Used, and written by somebody: anonymous memory, a file's page that is up to date, or a page
    table."""
    OFFLINE = 6
    """In the balloon, or plugged and not in use (KPF_OFFLINE)."""


class Seen(IntEnum):
    """What earlier audits saw of a page."""

    NOTHING = 0
    RESIDENT_EARLIER = 1
    """Used and resident, and used ever since, but absent at the latest audit."""
    RESIDENT = 2
    """Used and resident at the latest audit."""
    FREE_RESIDENT = 3
    """Free and unreported at the latest audit, and resident."""


class HostState(IntEnum):
    """What the host holds of one guest page."""

    ABSENT = 0
    RESIDENT = 1
    SWAPPED = 2
    ZERO = 3
    """Mapped to the shared zero page: costs nothing, counts as absent."""
    UNKNOWN = 4
    """No RAM block of QEMU backs this PFN, or it could not be read."""


@dataclass(frozen=True)
class CellTotals:
    """Bytes in each cell of the oracle's table (see docs/oracle.md), stable pages only."""

    used_resident: int
    used_absent: int
    free_small_resident: int
    """Free, in a block below the order, or in a zone under its watermark: retained, expected."""
    free_small_absent: int
    free_large_resident: int
    """Free, unreported, in a block of at least the order in a zone above its watermark."""
    free_large_absent: int
    reported_resident: int
    reported_absent: int
    held_absent: int
    """Part of used_absent that the churn tool holds and has written: data loss."""
    unstable: int
    """Pages whose guest state changed between the two readings; in no other cell."""
    unknown: int
    """Pages with no readable host state; in no other cell."""
    offline_resident: int | None = None
    """In the balloon or plugged and not in use, and held by the host all the same; None in records
    before such pages were told apart."""
    offline_absent: int | None = None


@dataclass(frozen=True)
class AuditReport:
    """A page audit, reduced: totals for the guest, and per zone, node and order."""

    at: float
    total: CellTotals
    per_zone: dict[str, CellTotals]
    """Key `node0/DMA32`."""
    per_node: dict[str, CellTotals]
    reported_by_order: dict[int, int]
    """Bytes in reported blocks of each order."""
    free_by_order: dict[int, int]
    """Bytes in free, unreported blocks of each order."""
    suspect_bytes: int
    """Used now and absent now, but used and resident in an earlier audit: suspicion, not proof."""
    suspect_pfns: tuple[int, ...]
    """The first few of them (at most 16)."""
    reported_undiscarded: int | None
    """Bytes reported that no discard in QEMU's trace covered since the host was last seen to hold
    them, or ever; None without a trace."""
    guest_seconds: float
    host_seconds: float
    reported_resident_pfns: tuple[int, ...] = ()
    """The first few reported and resident pages (at most 16): where to look."""
    held_absent_pfns: tuple[int, ...] = ()
    """The first few lost pages (at most 16)."""
    tail_reported: int | None = None
    """Bytes reported in the last block of the order of each zone, where the zone ends within it."""
    nearly_free: int = 0
    """Bytes free in blocks of the order that lack few pages (harness.kernel.blocks.FEW)."""
    nearly_free_lack: int = 0
    """Pages that all these blocks together lack."""
    tail_discarded: int | None = None
    """Bytes there that a discard in QEMU's trace ever covered; None without a trace."""
    collapsible: int = 0
    """Reported and resident, in a huge page's worth of the host that is all resident and not all
    reported: what khugepaged can have brought back (mm/khugepaged.c, hpage_collapse_scan_pmd())."""
    lost_bytes: int | None = None
    """Used, absent, and certainly not as the guest left it (`harness.kernel.losses`): data loss.
    None in records before it was judged."""
    lost_undiscarded: int = 0
    """The part of it that no discard in QEMU's trace explains."""
    lost_pfns: tuple[int, ...] = ()
    """The first few lost pages (at most 16)."""
    listed: int | None = None
    """Bytes of memory that the guest listed, in whatever state; None in records before it was
    counted."""
    present: int | None = None
    """Bytes of memory that the guest's zones have (`present` of /proc/zoneinfo)."""
