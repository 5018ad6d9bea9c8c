# SPDX-License-Identifier: Apache-2.0
"""One that waits to be let in, in a thread of its own, and stays until it is told to leave."""

import threading
from contextlib import AbstractContextManager


class Entrant:
    """Enters the `door` at once, or as soon as the door lets it in."""

    def __init__(self, door: AbstractContextManager[object]) -> None:
        self.entered = threading.Event()
        self.refused: Exception | None = None
        """What the door raised."""
        self._leaves = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(door,))
        self._thread.start()

    def _run(self, door: AbstractContextManager[object]) -> None:
        try:
            with door:
                self.entered.set()
                self._leaves.wait(30.0)
        except Exception as error:  # noqa: BLE001 - the test asks for it
            self.refused = error

    @property
    def is_in(self) -> bool:
        """Let in within a time that is ample for it."""
        return self.entered.wait(5.0)

    @property
    def waits(self) -> bool:
        """Still not let in after a time in which it would have been."""
        return not self.entered.wait(0.2)

    def leave(self) -> None:
        self._leaves.set()
        self._thread.join(10.0)
