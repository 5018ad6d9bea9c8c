# SPDX-License-Identifier: Apache-2.0
"""What the host holds of a guest's memory while it boots.

The guest cannot be asked yet, but it reports memory before it is ready. Memory that the host held,
and lost without a discard, would look as if the guest had never touched it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import numpy as np

from harness.errors import HarnessError
from harness.kernel.blocks import BoolArray
from harness.kernel.losses import padded_mask
from harness.kernel.pages import HostState, StateArray
from harness.machine.interfaces import Traced
from harness.observe.instruments import Instruments
from harness.run_log import RunThread

LOOK_SECONDS = 0.25
"""Between two looks, at least."""

LOOK_SHARE = 20
"""The time between two looks, at least, in times of the look before."""

LOG = logging.getLogger(__name__)


class BootResidency:
    """Pages that the host held at some look and that no discard in QEMU's trace has covered since.

    For one QEMU; thread-safe once its looks have ended.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._held: BoolArray = np.zeros(instruments.layout.pfn_end, np.bool_)
        self._mark = 0

    def look(self) -> None:
        """Look once more. Raises `ObserveError`."""
        discards = self._instruments.discards
        mark = discards.mark()
        held = on_host(self._instruments.residency.read())
        self._held = self._still_held() | held
        self._mark = mark

    def held_for(self, instruments: Instruments) -> BoolArray:
        """Return the pages, index = PFN, for instruments on the same QEMU; none if its memory lies
        elsewhere now. Raises `ObserveError`.
        """
        pages = instruments.layout.pfn_end
        if instruments.layout.blocks != self._instruments.layout.blocks:
            return np.zeros(pages, np.bool_)
        self._instruments.discards.read()
        return padded_mask(self._still_held(), pages)

    def _still_held(self) -> BoolArray:
        covered = self._instruments.discards.covered_since(self._mark)
        return self._held & ~padded_mask(covered, len(self._held))


def on_host(states: StateArray) -> BoolArray:
    """Find the pages that the host is charged for."""
    return np.isin(states, (HostState.RESIDENT, HostState.SWAPPED))


class BootLooks:
    """Looks while a guest boots."""

    def __init__(self) -> None:
        self.residency: BootResidency | None = None
        """Of the QEMU watched last; None if nothing could be seen of it."""

    @contextlib.contextmanager
    def watching(self, vm: Traced) -> Iterator[None]:
        """Look at a QEMU that has just started until the block ends.

        What cannot be seen is left out: the instruments say so when they are opened for the guest.
        """
        self.residency = None
        ended = threading.Event()
        # Opened in this thread, which is also the one that asks QEMU while the guest boots.
        with contextlib.ExitStack() as looking:
            with _left_out():
                residency = BootResidency(Instruments.open(vm))
                thread = RunThread(target=self._look, args=(residency, ended), name="boot-looks")
                thread.start()
                looking.callback(thread.join)
                looking.callback(ended.set)
            yield

    def _look(self, residency: BootResidency, ended: threading.Event) -> None:
        pause = 0.0
        with _left_out():
            while not ended.wait(pause):
                start = time.monotonic()
                residency.look()
                self.residency = residency
                pause = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - start))


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        LOG.debug("cannot see what the host holds while the guest boots: %s", error)
