# SPDX-License-Identifier: Apache-2.0
"""The guest, the host, and the guest again, kept so that 64 GiB of pages take little memory.

The guest's two readings stay runs of equal pages; only a part of them at a time is looked at page
by page. The host's is one byte a page.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.guest.page_stream import PageReader, PageRuns
from harness.kernel.page_kinds import states_of
from harness.kernel.pages import HostState, StateArray


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

    @property
    def pages(self) -> int:
        """Page frames that any of the readings shows."""
        return max(len(self.before), len(self.host), len(self.after))

    def part(self, start: int, end: int) -> PagesPart:
        """Return the page frames [start, end)."""
        host = self.host[start:end]
        kinds = self.after.part(start, end)
        return PagesPart(
            before=states_of(self.before.part(start, end)),
            host=np.pad(host, (0, end - start - len(host)), constant_values=HostState.UNKNOWN),
            after=states_of(kinds),
            kinds=kinds,
        )


def read_both(reader: PageReader, read_host: Callable[[], StateArray]) -> BothSides:
    """Read the guest, the host, and the guest again. Raises what the readers raise."""
    before = reader.read_runs()
    host = read_host()
    return BothSides(before, host, reader.read_runs())
