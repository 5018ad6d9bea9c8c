# SPDX-License-Identifier: Apache-2.0
"""Read a log that QEMU appends to while it grows, and fail if it is deleted, cut or replaced.

An instrument that took a deleted log for an empty one would report that nothing happened.
"""

import os
from pathlib import Path

from harness.errors import ObserveError

READ_BYTES = 1 << 20
TAIL_BYTES = 256
"""Bytes before the read position that each read compares with the file."""


class GrowingFile:
    """Reads each byte of a file once. `what` names it in messages ("the guest's console")."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._identity: tuple[int, int] | None = None
        self._tail = b""
        self.position = 0

    def read(self, limit: int = READ_BYTES) -> bytes:
        """Return the next bytes, at most `limit`, or none while the file does not exist yet.

        Raises `ObserveError` if the file cannot be read, or if it was deleted, replaced, truncated
        or overwritten since the last read.
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
            f"{self._what} ({self.path.name}) {how}, so part of it was not read",
            hint="keep other programs (log rotation, a clean-up job) out of the run's directory",
            evidence=(self.path,),
        )
