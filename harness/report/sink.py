# SPDX-License-Identifier: Apache-2.0
"""Output that never fails: not on a closed pipe, a full disk or a limited character set.

The verdicts are in results.jsonl; showing them must not end a run.
"""

import contextlib
import os
import sys
import threading
from typing import Any, TextIO


class LastingSink:
    """A text file whose writes never raise; the first failure is reported once on stderr."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._broken = False
        self._lock = threading.Lock()

    def write(self, text: str, /) -> int:
        """Write, with `?` for characters that the encoding lacks; file errors are not raised."""
        if not self._broken:
            try:
                self._file.write(self._encodable(text))
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                self._break(error)
        return len(text)

    def flush(self) -> None:
        """Flush; file errors are not raised."""
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
        # Flushing the buffer at exit would fail again and change the exit status.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
        why = error.strerror if isinstance(error, OSError) else str(error)
        with contextlib.suppress(OSError, ValueError):
            print(
                f"fpr-harness: cannot write more output ({why}); the runs go on, and their "
                "verdicts are in results.jsonl",
                file=sys.stderr,
                flush=True,
            )

    def __getattr__(self, name: str) -> Any:
        """Forward everything else, such as `isatty`, to the file."""
        return getattr(self._file, name)
