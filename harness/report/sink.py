# SPDX-License-Identifier: Apache-2.0
"""Output that never breaks what it tells of: a reader that went away, a full disk, a poor charset.

The verdicts are in results.jsonl; what a person is shown of them is worth no run.
"""

import contextlib
import os
import sys
import threading
from typing import Any, TextIO


class LastingSink:
    """A text file that takes everything: what it cannot write is lost, and said once on stderr."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._broken = False
        self._lock = threading.Lock()

    def write(self, text: str, /) -> int:
        """Write, with `?` for what the file's encoding lacks. Never raises for the file's sake."""
        if not self._broken:
            try:
                self._file.write(self._encodable(text))
            except (OSError, ValueError) as error:  # ValueError: it is closed
                self._break(error)
        return len(text)

    def flush(self) -> None:
        """Like `write`."""
        if not self._broken:
            try:
                self._file.flush()
            except (OSError, ValueError) as error:
                self._break(error)

    def _encodable(self, text: str) -> str:
        encoding = self._file.encoding or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)

    def _break(self, error: OSError | ValueError) -> None:
        with self._lock:
            if self._broken:
                return
            self._broken = True
        # What is still buffered would fail again when the interpreter ends, and change its status.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
        why = error.strerror if isinstance(error, OSError) else str(error)
        with contextlib.suppress(OSError, ValueError):
            print(
                f"fpr-harness: no more output here ({why}); the runs go on, and results.jsonl has "
                "what becomes of them",
                file=sys.stderr,
                flush=True,
            )

    def __getattr__(self, name: str) -> Any:
        """All else that is asked of a file, such as `isatty`."""
        return getattr(self._file, name)
