# SPDX-License-Identifier: Apache-2.0
"""The history file: a line of JSON for each run, appended at the end of an invocation."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from harness.errors import RecordError
from harness.regular_file import open_regular

HISTORY_NAME = "history.jsonl"
"""In the directory that holds the results directories named after their time."""

SCHEMA = 1

MOST_BYTES = 1 << 20
"""Upper bound of a line; they take about 3 KB."""


@dataclass(frozen=True)
class PastRun:
    """One run, as the history keeps it."""

    began: str
    """UTC, ISO 8601."""
    scenario: str
    image: str
    kernel: str
    accel: str
    qemu: str
    """QEMU's version."""
    qemu_name: str
    """The QEMU asked for."""
    host: str
    """The host's name."""
    verdict: str
    cause: str | None
    seconds: FiniteFloat
    measures: dict[str, FiniteFloat]
    """A measure that was not taken is absent."""
    schema: int = SCHEMA


_RUNS: TypeAdapter[PastRun] = TypeAdapter(PastRun)


def append_runs(path: Path, runs: Iterable[PastRun]) -> None:
    """Append a line for each run, all at once; several invocations may do so. Raises `RecordError`.

    A last line that was torn, as by a full disk, is ended first.
    """
    lines = "".join(json.dumps(asdict(run), ensure_ascii=False) + "\n" for run in runs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
            file.write((b"\n" if torn else b"") + lines.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordError(
            f"cannot append to the history {path}: {error.strerror}",
            hint="the results are complete; only `fpr-harness trend` will not know these runs",
        ) from error


def read_history(path: Path) -> Iterator[PastRun]:
    """Yield every run of a history, skipping torn lines. Raises `RecordError`."""
    known = {field.name for field in fields(PastRun)}
    try:
        with open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_BYTES), b""), 1):
                try:
                    data = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                yield _decoded(path, number, data, known)
    except OSError as error:
        raise RecordError(f"cannot read the history {path}: {error.strerror}") from error


def _decoded(path: Path, number: int, data: object, known: set[str]) -> PastRun:
    why = "of another version, or no run"
    if isinstance(data, dict) and data.get("schema") == SCHEMA:
        try:
            return _RUNS.validate_python({k: v for k, v in data.items() if k in known})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise RecordError(
        f"{path}:{number}: not a run: {why}",
        hint="remove the line, or use the version that wrote it",
        evidence=[path],
    )
