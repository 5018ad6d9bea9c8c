# SPDX-License-Identifier: Apache-2.0
"""A log that QEMU appends to, read as it grows. What vanished or was cut no longer counts as read.

An instrument that took a deleted log for an empty one would report that nothing happened.
"""

import os
from pathlib import Path

from harness.errors import ObserveError

READ_BYTES = 1 << 20
TAIL_BYTES = 256
"""Bytes before the position that are held against the file at each read."""


class GrowingFile:
    """Reads each byte once. `what` names the file in messages: "the guest's console"."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._identity: tuple[int, int] | None = None
        self._tail = b""
        self.position = 0

    def read(self, limit: int = READ_BYTES) -> bytes:
        """The next bytes, at most `limit`; none while the file is not there yet.

        Raises `ObserveError` if the file cannot be read, or if it is no longer the one that was
        read before: deleted, replaced, shorter or overwritten.
        """
        try:
            with self.path.open("rb") as file:
                state = os.fstat(file.fileno())
                identity = state.st_dev, state.st_ino
                if self._identity not in (None, identity):
                    raise self._lost("was replaced by another file")
                self._identity = identity
                if state.st_size < self.position:
                    raise self._lost(
                        f"shrank from {self.position} to {state.st_size} bytes while it was read"
                    )
                file.seek(self.position - len(self._tail))
                if file.read(len(self._tail)) != self._tail:
                    raise self._lost("was overwritten while it was read")
                data = file.read(limit)
        except FileNotFoundError:
            if self._identity is not None:
                raise self._lost("was deleted while it was read") from None
            return b""
        except OSError as error:
            raise ObserveError(
                f"cannot read {self._what}: {error}", evidence=(self.path,)
            ) from error
        self.position += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return data

    def _lost(self, how: str) -> ObserveError:
        return ObserveError(
            f"{self._what} ({self.path.name}) {how}: what it said is not known",
            hint="let nothing else touch the run's directory (a log rotation, a clean-up job)",
            evidence=(self.path,),
        )
