# SPDX-License-Identifier: Apache-2.0
"""What earlier looks saw of each page, handed on from audit to audit.

The first of them, while the guest boots and when it is ready, are at the host alone: without them,
memory that is lost before the first audit would look as if it had never been touched.
"""

import numpy as np

from harness.act.guest import Kept
from harness.kernel.losses import seen_on_host
from harness.kernel.pages import Seen, StateArray
from harness.observe.boot_residency import BootResidency, on_host
from harness.observe.instruments import DiscardReader, Instruments
from harness.observe.ram_layout import RamLayout


class SeenPages(Kept):
    """State that looks at the pages hand on to later ones."""

    def __init__(self) -> None:
        self.audits = 0
        """Number of audits so far."""
        self.seen: StateArray | None = None
        """What was seen of each page (`harness.kernel.pages.Seen`); None before the first look."""
        self.moved = False
        """Whether the guest came from another QEMU."""
        self.guest_at: float | None = None
        """When the latest audit began, on the guest's clock; None without one since the boot."""
        self._began: tuple[DiscardReader, int] | None = None

    def begin(self, instruments: Instruments, booting: BootResidency | None = None) -> None:
        """Forget what was seen, and look at what the host holds. Raises `ObserveError`.

        For a guest that has just booted, or moved to another QEMU. `booting`: what was seen of this
        QEMU before.
        """
        self.guest_at = None
        self._began = (instruments.discards, instruments.discards.mark())
        held = on_host(instruments.residency.read())
        if booting is not None:
            held |= booting.held_for(instruments)
        self.seen = seen_on_host(held)

    def audited(
        self, seen: StateArray, guest_at: float | None, discards: DiscardReader, mark: int
    ) -> None:
        """Keep what an audit saw. `mark`: in `discards`, just before it."""
        self.audits += 1
        self.seen, self.guest_at, self._began = seen, guest_at, (discards, mark)

    def keep_only(self, layout: RamLayout) -> None:
        """Forget the pages that are no longer in the guest's RAM: others may take their place."""
        if self.seen is not None:
            inside = np.zeros(len(self.seen), np.bool_)
            for piece in layout.pieces:
                inside[piece.pfn_start : piece.pfn_end] = True
            self.seen = np.where(inside, self.seen, np.uint8(Seen.NOTHING))

    def mark_in(self, discards: DiscardReader) -> int:
        """Return the mark in `discards` just before the latest look; 0 if it used another log."""
        if self._began is None or self._began[0] is not discards:
            return 0
        return self._began[1]

    def passes_until(self, guest_at: float | None, pass_seconds: float) -> float | None:
        """Return the passes the guest had time for from the latest audit to `guest_at`."""
        if self.guest_at is None or guest_at is None:
            return None
        return (guest_at - self.guest_at) / pass_seconds
