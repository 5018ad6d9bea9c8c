# SPDX-License-Identifier: Apache-2.0
"""Reads results.jsonl, while it is being written or afterwards."""

import threading
from collections.abc import Iterator
from pathlib import Path

from harness.errors import RecordError
from harness.record.event_lines import SchemaError, decode
from harness.record.events import Event
from harness.regular_file import open_regular

RESULTS_NAME = "results.jsonl"


POLL_SECONDS = 0.2

MOST_BYTES = 16 << 20
"""Upper bound of a line. The longest lines, those of audits, take some 10 KB."""


def read_events(path: Path) -> Iterator[tuple[str, Event]]:
    """Yield every event of a file with its run, in the order written; skip torn lines.

    Raises `RecordError` if the file cannot be read or a complete line is not an event.
    """
    for _number, _line, found in read_numbered(path):
        if found is not None:
            yield found


def read_numbered(path: Path) -> Iterator[tuple[int, bytes, tuple[str, Event] | None]]:
    """Yield every line with its number, from 1, and its event; None for a torn line.

    Raises like `read_events`.
    """
    try:
        with open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_BYTES), b""), 1):
                yield number, line, _decode(path, number, line)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", evidence=[path]) from error


def tail_events(path: Path, stop: threading.Event) -> Iterator[tuple[str, Event]]:
    """Yield events as they are written, from the first; end once `stop` is set and all are read.

    The file need not exist yet. Raises `RecordError` like `read_events`.
    """
    rest, number, offset = b"", 0, 0
    while True:
        last = stop.is_set()
        chunk = _read_from(path, offset)
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            found = _decode(path, number, line)
            if found is not None:
                yield found
        if last:
            return
        stop.wait(POLL_SECONDS)


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", evidence=[path]) from error


def _decode(path: Path, number: int, line: bytes) -> tuple[str, Event] | None:
    try:
        return decode(line)
    except SchemaError as error:
        raise RecordError(
            f"{path} is of {error}",
            hint="use the version that wrote it",
            evidence=[path],
        ) from error
    except ValueError as error:
        raise RecordError(
            f"{path}:{number}: {error}",
            hint="the file was edited, or written by another version",
            evidence=[path],
        ) from error
