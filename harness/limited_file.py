# SPDX-License-Identifier: Apache-2.0
"""A log that takes only so much: what a guest can bring about must not fill the disk."""

import contextlib
from pathlib import Path
from typing import IO

from harness.units import MIB, format_size

LOG_BYTES = 64 * MIB
"""Of one log; an hour of a usual run makes some hundred KiB."""


class LimitedFile:
    """Text appended line by line until the limit, which the last line says.

    A log is evidence, not a result: a disk that does not take it breaks no run.
    """

    def __init__(self, path: Path, mode: str, limit: int = LOG_BYTES) -> None:
        """Raises `OSError`."""
        self._file: IO[str] = path.open(mode, encoding="utf-8", buffering=1)
        self._limit = self._left = limit

    def write(self, text: str) -> None:
        """Add whole lines; nothing once the limit is reached."""
        if self._left <= 0:
            return
        self._left -= len(text)
        if self._left <= 0:
            text = f"the limit of this log, {format_size(self._limit)}, is reached\n"
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)

    def close(self) -> None:
        """Release the file."""
        with contextlib.suppress(OSError):
            self._file.close()
