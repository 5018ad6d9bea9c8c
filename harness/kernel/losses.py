# SPDX-License-Identifier: Apache-2.0
"""Finds used pages whose content the host has lost, and reports that led to no discard.

A page is *suspect* if it was used and resident at an earlier audit and is used and absent at this
one. That alone proves nothing: the guest may have freed, reported and reallocated it without
touching it yet, as happens to pages on the per-CPU lists.

A page is *lost* if it is used and absent, was resident at the previous look, whoever had it then,
and no discard has covered it since. An absent page that has certainly been written is lost as well:
the kernel never hands out anonymous memory, page tables or up-to-date file pages untouched. There
are two exceptions: a discard covered the page during the audit (it may have changed hands twice),
or the guest has moved to another QEMU (migration does not send pages of zeros).

Other reasons for absence are ruled out beforehand: pages in the balloon have a state of their own,
and swapped and merged pages count as resident. The zero page holds what a page of zeros held (from
Linux 6.13, splitting a huge page maps its zero-filled parts to the zero page, mm/huge_memory.c).
"""

from dataclasses import dataclass

import numpy as np

from harness.kernel.blocks import BoolArray
from harness.kernel.pages import Seen, StateArray
from harness.kernel.zones import HUGE_PAGE
from harness.units import PAGE_SIZE

WAS_RESIDENT = (Seen.RESIDENT, Seen.FREE_RESIDENT, Seen.REPORTABLE_RESIDENT, Seen.ON_HOST)
"""What was seen of a page that was resident at the latest look."""


@dataclass(frozen=True, eq=False)
class DiscardCoverage:
    """Pages covered by the discards in QEMU's trace, index = PFN.

    An array may be shorter than the guest's memory; the pages beyond its end were not covered.
    """

    ever: BoolArray
    since_earlier: BoolArray
    """Covered since the start of the previous audit; same as `ever` if that cannot be told."""
    during: BoolArray
    """Covered while this audit read the page states."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What one audit saw of every page; arrays of equal length, index = PFN."""

    used: BoolArray
    free: BoolArray
    """Free and not reported."""
    reportable: BoolArray
    """The part of `free` in blocks that could be reported."""
    written: BoolArray
    """Used and certainly written."""
    resident: BoolArray
    absent: BoolArray
    zero: BoolArray
    """Mapped to the host's zero page."""
    seen: StateArray
    """What earlier audits saw, as `Seen`."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Pages that are or may be lost; arrays of equal length, index = PFN."""

    suspect: BoolArray
    lost: BoolArray
    undiscarded: BoolArray
    """The part of `lost` for which QEMU's trace shows no discard."""


def find_losses(looked: Looked, discards: DiscardCoverage | None, *, moved: bool) -> Losses:
    """Judge every used page that is absent.

    `discards`: None without QEMU's trace; `moved`: the guest has moved to another QEMU.
    """
    pages = len(looked.used)
    seen_used = (looked.seen == Seen.RESIDENT) | (looked.seen == Seen.RESIDENT_EARLIER)
    suspect = looked.used & (looked.absent | looked.zero) & seen_used
    gone = looked.used & looked.absent
    written = gone & looked.written
    undiscarded = np.zeros(pages, np.bool_)
    if discards is not None:
        undiscarded = gone & np.isin(looked.seen, WAS_RESIDENT)
        undiscarded &= ~padded_mask(discards.since_earlier, pages)
        written &= ~padded_mask(discards.during, pages)
    if moved:
        written &= seen_used
    return Losses(suspect, undiscarded | written, undiscarded)


def seen_after(looked: Looked) -> StateArray:
    """Return what the next audit needs to know, as `Seen` by PFN.

    A page seen resident is remembered only while it stays used: once free, it may be returned to
    the host and allocated again without being touched.
    """
    seen_used = (looked.seen == Seen.RESIDENT) | (looked.seen == Seen.RESIDENT_EARLIER)
    seen = seen_on_host(looked.resident)
    seen[looked.used & seen_used] = Seen.RESIDENT_EARLIER
    seen[looked.used & looked.resident] = Seen.RESIDENT
    seen[looked.free & looked.resident] = Seen.FREE_RESIDENT
    seen[looked.reportable & looked.resident] = Seen.REPORTABLE_RESIDENT
    seen[looked.reportable & ~looked.resident] = Seen.REPORTABLE_ABSENT
    return seen


def seen_on_host(resident: BoolArray) -> StateArray:
    """Return what a look at the host alone tells the next audit, as `Seen` by PFN."""
    return np.where(resident, np.uint8(Seen.ON_HOST), np.uint8(Seen.NOTHING))


def undiscarded(reported: BoolArray, looked: Looked, discards: DiscardCoverage) -> BoolArray:
    """Find reported pages whose report led to no discard.

    For an absent page, one discard at any time is enough. A page that is resident, and was resident
    at the previous audit too, must have been discarded in between.
    """
    pages = len(reported)
    never = reported & ~padded_mask(discards.ever, pages)
    held_before = np.isin(
        looked.seen, (Seen.RESIDENT, Seen.FREE_RESIDENT, Seen.REPORTABLE_RESIDENT)
    )
    still = reported & looked.resident & held_before
    again = padded_mask(discards.since_earlier, pages)
    found: BoolArray = never | (still & ~again)
    return found


def withheld(looked: Looked, discards: DiscardCoverage, block_pages: int) -> BoolArray:
    """Used pages in whole blocks that were given back to the host and that nobody has touched
    since: on the per-CPU lists, in the pool of huge pages, or isolated to be reported and never put
    back (page_reporting_drain(), mm/page_reporting.c)."""
    pages = len(looked.used)
    idle = looked.used & ~looked.written & (looked.absent | looked.zero)
    idle &= padded_mask(discards.ever, pages)
    whole = pages // block_pages * block_pages
    idle[:whole] &= np.repeat(idle[:whole].reshape(-1, block_pages).all(axis=1), block_pages)
    idle[whole:] = False
    return idle


def collapsible(given: BoolArray, resident: BoolArray) -> BoolArray:
    """Find resident pages of those `given` to the host that its huge pages may have brought back.

    These lie in an aligned huge page of memory that is entirely resident but not entirely given
    back. khugepaged does not collapse an empty range (mm/khugepaged.c, hpage_collapse_scan_pmd());
    a page fault fills one as a whole (do_huge_pmd_anonymous_page(), mm/huge_memory.c), which from
    6.14 on is empty again once all of it is discarded, in however small pieces (mm/pt_reclaim.c).
    """
    size = HUGE_PAGE // PAGE_SIZE
    whole = len(given) // size * size
    per_page = (resident[:whole].reshape(-1, size), given[:whole].reshape(-1, size))
    able = per_page[0].all(axis=1) & ~per_page[1].all(axis=1)
    found = given & resident
    found[:whole] &= np.repeat(able, size)
    found[whole:] = False
    return found


def padded_mask(mask: BoolArray, pages: int) -> BoolArray:
    """Return the mask cut or extended to exactly `pages` pages; extended with False."""
    result = np.zeros(pages, np.bool_)
    result[: len(mask)] = mask[:pages]
    return result
