# SPDX-License-Identifier: Apache-2.0
"""The guest, the host, and the guest again, kept so that 64 GiB of pages take little memory.

The guest's two readings stay runs of equal pages; only a part of them at a time is looked at page
by page. The host's is one byte a page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.guest.page_stream import PageReader, PageRuns
from harness.kernel.page_kinds import states_of
from harness.kernel.pages import GuestState, HostState, StateArray


@dataclass(frozen=True, eq=False)
class PagesPart:
    """Some page frames that follow each other, by PFN from the first of them."""

    before: StateArray
    """GuestState."""
    host: StateArray
    """HostState, read between the two."""
    after: StateArray
    """GuestState."""
    kinds: StateArray
    """Of `after`: PageKind of pages in use, GuestState of the others."""


@dataclass(frozen=True, eq=False)
class BothSides:
    """The readings of all page frames."""

    before: PageRuns
    host: StateArray
    """HostState by PFN."""
    after: PageRuns
    offline: Sequence[range] = ()
    """PFNs of memory blocks that the guest has put offline, which its list does not tell."""

    @property
    def pages(self) -> int:
        """Page frames that any of the readings shows."""
        return max(len(self.before), len(self.host), len(self.after))

    def part(self, start: int, end: int) -> PagesPart:
        """Return the page frames [start, end)."""
        host = self.host[start:end]
        before, kinds = (self._online(runs, start, end) for runs in (self.before, self.after))
        return PagesPart(
            before=states_of(before),
            host=np.pad(host, (0, end - start - len(host)), constant_values=HostState.UNKNOWN),
            after=states_of(kinds),
            kinds=kinds,
        )

    def _online(self, runs: PageRuns, start: int, end: int) -> StateArray:
        """Return a part of the guest's list with what is offline marked."""
        found = runs.part(start, end)
        for block in self.offline:
            found[max(0, block.start - start) : max(0, block.stop - start)] = GuestState.OFFLINE
        return found


def read_both(
    reader: PageReader, read_host: Callable[[], StateArray], offline: Sequence[range]
) -> BothSides:
    """Read the guest, the host, and the guest again. Raises what the readers raise."""
    before = reader.read_runs()
    host = read_host()
    return BothSides(before, host, reader.read_runs(), offline)
