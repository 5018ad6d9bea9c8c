# SPDX-License-Identifier: Apache-2.0
"""What the host holds of a guest's memory while it boots.

The guest cannot be asked yet, but it reports memory before it is ready. Memory that the host held,
and lost without a discard, would look as if the guest had never touched it.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np

from harness.errors import ObserveError
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
        """Return the pages, index = PFN, for instruments on the same QEMU. Raises `ObserveError`,
        also if guest RAM lies elsewhere in it now.
        """
        if instruments.layout.blocks != self._instruments.layout.blocks:
            raise ObserveError("guest RAM lies elsewhere in QEMU than before the guest booted")
        self._instruments.discards.read()
        return padded_mask(self._still_held(), instruments.layout.pfn_end)

    def _still_held(self) -> BoolArray:
        covered = self._instruments.discards.covered_since(self._mark)
        return self._held & ~padded_mask(covered, len(self._held))


def on_host(states: StateArray) -> BoolArray:
    """Find the pages that the host is charged for."""
    return np.isin(states, (HostState.RESIDENT, HostState.SWAPPED))


class BootLooks:
    """Looks while a guest boots."""

    def __init__(self) -> None:
        self._seen: BootResidency | None = None
        self._failure: Exception | None = None

    @contextlib.contextmanager
    def watching(self, vm: Traced) -> Iterator[None]:
        """Look at a QEMU that has just started until the block ends.

        Why nothing can be seen is kept for `taken`: of a guest that does not boot, that matters
        more than what the host holds of it.
        """
        self._seen = self._failure = None
        ended = threading.Event()
        with contextlib.ExitStack() as looking:
            with self._failing():
                # Opened in this thread, the one that asks QEMU while the guest boots.
                seen = BootResidency(Instruments.open(vm))
                thread = RunThread(target=self._look, args=(seen, ended), name="boot-looks")
                thread.start()
                looking.callback(thread.join)
                looking.callback(ended.set)
                self._seen = seen
            yield

    def taken(self) -> BootResidency | None:
        """Return what was seen of the QEMU watched last; None if none was watched.

        Raises what kept it from being looked at.
        """
        if self._failure is not None:
            raise self._failure
        return self._seen

    def _look(self, seen: BootResidency, ended: threading.Event) -> None:
        with self._failing():
            while True:
                start = time.monotonic()
                seen.look()
                pause = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - start))
                if ended.wait(pause):
                    return

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised by `taken`
            self._failure = error
