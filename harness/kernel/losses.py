# SPDX-License-Identifier: Apache-2.0
"""Which pages the guest uses and has lost, and which reports came to nothing.

A page that was used and resident at an earlier audit, and is used and absent now, is *suspect*. It
may have been freed, reported, discarded and handed out again without having been touched, as pages
on the per-CPU lists are. It is *lost* if it was resident at the audit before and no discard has
covered it since. Absent pages that somebody has certainly written are lost in any case: anonymous
memory, page tables and up-to-date pages of files are never handed out untouched. Not where a
discard of them came while the audit looked (they may have changed hands twice), nor where the guest
has moved to another QEMU, which is sent no pages of zeros.

What else explains absence: the balloon's pages are in a state of their own; swapped and merged
pages count as resident; the zero page holds what a page of zeros held (Linux 6.13 and later map the
zero-filled parts of a huge page there when they split it, mm/huge_memory.c).
"""

from dataclasses import dataclass

import numpy as np

from harness.kernel.blocks import BoolArray
from harness.kernel.pages import Seen, StateArray
from harness.kernel.zones import HUGE_PAGE
from harness.units import PAGE_SIZE


@dataclass(frozen=True, eq=False)
class DiscardCoverage:
    """Which pages the discards in QEMU's trace covered, index = PFN; shorter arrays say no more."""

    ever: BoolArray
    since_earlier: BoolArray
    """Since the audit before began; where that moment says nothing, ever."""
    during: BoolArray
    """While this audit looked."""


@dataclass(frozen=True, eq=False)
class Looked:
    """One audit's look at every page; arrays of one length, index = PFN."""

    used: BoolArray
    free: BoolArray
    """And not reported."""
    written: BoolArray
    """Used, and somebody has certainly written it."""
    resident: BoolArray
    absent: BoolArray
    zero: BoolArray
    """On the host's zero page."""
    seen: StateArray
    """What the audits before saw, as `Seen`."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Pages that are, or may be, lost; arrays of one length, index = PFN."""

    suspect: BoolArray
    lost: BoolArray
    undiscarded: BoolArray
    """The part of `lost` that no discard in QEMU's trace explains."""


def find_losses(looked: Looked, discards: DiscardCoverage | None, *, moved: bool) -> Losses:
    """Judge every used page that is absent. `discards`: None without QEMU's trace."""
    pages = len(looked.used)
    seen_used = (looked.seen == Seen.RESIDENT) | (looked.seen == Seen.RESIDENT_EARLIER)
    suspect = looked.used & (looked.absent | looked.zero) & seen_used
    gone = looked.used & looked.absent
    written = gone & looked.written
    undiscarded = np.zeros(pages, np.bool_)
    if discards is not None:
        undiscarded = gone & (looked.seen == Seen.RESIDENT)
        undiscarded &= ~padded_mask(discards.since_earlier, pages)
        written &= ~padded_mask(discards.during, pages)
    if moved:
        written &= seen_used
    return Losses(suspect, undiscarded | written, undiscarded)


def seen_after(looked: Looked) -> StateArray:
    """What the next audit is told. A page once seen resident stays on record only while it stays
    used: a free page may be given back and be handed out again without having been touched."""
    seen_used = (looked.seen == Seen.RESIDENT) | (looked.seen == Seen.RESIDENT_EARLIER)
    seen = np.full(len(looked.used), Seen.NOTHING, np.uint8)
    seen[looked.used & seen_used] = Seen.RESIDENT_EARLIER
    seen[looked.used & looked.resident] = Seen.RESIDENT
    seen[looked.free & looked.resident] = Seen.FREE_RESIDENT
    return seen


def undiscarded(reported: BoolArray, looked: Looked, discards: DiscardCoverage) -> BoolArray:
    """Reported pages whose report led to no discard.

    One discard ever is enough for a page that is absent. One that the host holds, and held at the
    audit before as well, must have been discarded since.
    """
    pages = len(reported)
    never = reported & ~padded_mask(discards.ever, pages)
    held_before = (looked.seen == Seen.RESIDENT) | (looked.seen == Seen.FREE_RESIDENT)
    still = reported & looked.resident & held_before
    again = padded_mask(discards.since_earlier, pages)
    found: BoolArray = never | (still & ~again)
    return found


def collapsible(reported: BoolArray, resident: BoolArray) -> BoolArray:
    """Reported, resident pages that khugepaged can have brought back: those in a huge page's worth
    of memory that is wholly resident, and not wholly reported, because it collapses nothing where
    nothing is (mm/khugepaged.c, hpage_collapse_scan_pmd())."""
    size = HUGE_PAGE // PAGE_SIZE
    whole = len(reported) // size * size
    per_page = (resident[:whole].reshape(-1, size), reported[:whole].reshape(-1, size))
    able = per_page[0].all(axis=1) & ~per_page[1].all(axis=1)
    found = reported & resident
    found[:whole] &= np.repeat(able, size)
    found[whole:] = False
    return found


def padded_mask(mask: BoolArray, pages: int) -> BoolArray:
    """The mask over exactly `pages` pages; False where it says nothing."""
    result = np.zeros(pages, np.bool_)
    result[: len(mask)] = mask[:pages]
    return result
