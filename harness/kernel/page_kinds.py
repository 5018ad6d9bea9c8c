# SPDX-License-Identifier: Apache-2.0
"""What a guest uses a page for, as /proc/kpageflags tells it."""

from enum import IntEnum

import numpy as np

from harness.kernel.pages import GuestState, StateArray


class PageKind(IntEnum):
    """The use of one page; the values are those the guest tool sends, beside those of GuestState
    for pages that are not in use."""

    ANONYMOUS = 8
    """Of processes: heaps, stacks, private memory."""
    FILE = 9
    """Of a file in the page cache, mapped or not."""
    SHMEM = 10
    """Of tmpfs or shared memory."""
    SLAB = 11
    PAGE_TABLE = 12
    HUGETLB = 13
    """In a pool of huge pages, in use or not."""
    KERNEL = 14
    """Anything else of the kernel's: its image, struct pages, stacks, drivers' memory; pages on the
    per-CPU lists look the same."""


_STATE_OF = np.arange(16, dtype=np.uint8)
_STATE_OF[[PageKind.SLAB, PageKind.HUGETLB, PageKind.KERNEL]] = GuestState.USED
_STATE_OF[[PageKind.ANONYMOUS, PageKind.FILE, PageKind.SHMEM, PageKind.PAGE_TABLE]] = (
    GuestState.CONTENT
)


def states_of(kinds: StateArray) -> StateArray:
    """Return the GuestState of pages given by PageKind or GuestState, at most 15."""
    states: StateArray = _STATE_OF[kinds]
    return states
