# SPDX-License-Identifier: Apache-2.0
"""Put the records of several results directories into one, without changing what they say."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RecordError
from harness.record.event_lines import RUN, run_of_torn
from harness.record.reader import RESULTS_NAME, read_numbered
from harness.record.recorded_run import RecordedRun, read_runs

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")


@dataclass(frozen=True)
class Part:
    """One results directory."""

    directory: Path
    runs: Sequence[RecordedRun]

    @property
    def shard(self) -> str:
        """`I/N`; empty if the invocation was not divided, or no run began."""
        plans = [run.started.plan for run in self.runs]
        return next((plan.shard for plan in plans if plan is not None and plan.shard), "")


def read_parts(directories: Sequence[Path]) -> list[Part]:
    """Read results directories, each once. Raises `UsageError`, `RecordError` as `read_runs`."""
    once = {directory.resolve(): directory for directory in reversed(directories)}
    return [Part(directory, read_runs(directory)) for directory in reversed(once.values())]


def missing_shards(parts: Iterable[Part]) -> list[str]:
    """Return the shards, as `I/N`, of which there are fewer parts than of others of that N.

    Each kernel of a matrix is divided by the same N, so that there are as many parts 1/N as 2/N.
    """
    seen: dict[int, Counter[int]] = {}
    for part in parts:
        match = _SHARD.fullmatch(part.shard)
        if match is not None:
            seen.setdefault(int(match[2]), Counter())[int(match[1])] += 1
    return [
        f"{number}/{count}"
        for count, there in seen.items()
        for number in range(1, count + 1)
        for _ in range(max(there.values()) - there[number])
    ]


def new_names(parts: Sequence[Part]) -> list[dict[str, str]]:
    """Return by part the name that each of its runs gets; all are different.

    A name that several parts have is told apart by the image and the QEMU, as those of one
    invocation are, and else by a number: `reclaim-basic@trixie+qemu-sid~2`.
    """
    count = Counter(run.run_id for part in parts for run in part.runs)
    images = {run.started.image for part in parts for run in part.runs}
    qemus = {run.started.qemu for part in parts for run in part.runs}
    taken: set[str] = set()
    names: list[dict[str, str]] = []
    for part in parts:
        given: dict[str, str] = {}
        for run in part.runs:
            name = run.run_id
            if count[name] > 1:
                base, hash_, number = name.partition("#")
                if len(images) > 1 and "@" not in base:
                    image = _in_a_name(run.started.image)
                    base = f"{base.partition('+')[0]}@{image}{_after(base, '+')}"
                if len(qemus) > 1 and "+" not in base and run.started.qemu:
                    base = f"{base}+qemu-{_in_a_name(run.started.qemu)}"
                name = f"{base}{hash_}{number}"
            given[run.run_id] = _free(name, taken)
        names.append(given)
    return names


def _in_a_name(text: str) -> str:
    """Replace what no name of a directory may hold: the record may come from anybody."""
    return re.sub(r"[^\w.=:~-]", "_", text)


def _after(text: str, mark: str) -> str:
    before, found, after = text.partition(mark)
    return f"{found}{after}" if before else ""


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and take it."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}~{number}"
    taken.add(free)
    return free


def merge_parts(parts: Sequence[Part], names: Sequence[Mapping[str, str]], results: Path) -> None:
    """Write the lines of all records, and link the directories of all runs, into `results`.

    results.jsonl is there already, and empty. Raises `RecordError`.
    """
    path = results / RESULTS_NAME
    try:
        with path.open("ab") as file:
            for part, given in zip(parts, names, strict=True):
                for _number, line, found in read_numbered(part.directory / RESULTS_NAME):
                    file.write(_renamed(line, found[0] if found else run_of_torn(line), given))
                for old, new in given.items():
                    source = part.directory / old
                    # A run that was stopped before it began has none.
                    if source.is_dir():
                        shutil.copytree(
                            source, results / new, symlinks=True, copy_function=_link_or_copy
                        )
            file.flush()
            os.fsync(file.fileno())
    except (OSError, shutil.Error) as error:
        raise RecordError(
            f"cannot merge into {results}: {error}",
            hint="free space there; the directories that were to be merged are as they were",
        ) from error


def _renamed(line: bytes, old: str | None, given: Mapping[str, str]) -> bytes:
    """Return the line with the new name of its run; the rest stays as it is, even if it is torn."""
    new = given.get(old, old) if old is not None else None
    if new != old:
        name = json.dumps(new, ensure_ascii=False).encode()
        if (found := RUN.match(line)) is not None:
            line = line[: found.start(1)] + name + line[found.end(1) :]
        else:
            # Another program has written the line anew, as jq(1) does.
            line = json.dumps({**json.loads(line), "run": new}).encode()
    # A torn last line must not run into the first of the next part.
    return line if line.endswith(b"\n") else line + b"\n"


def _link_or_copy(source: str, target: str) -> str:
    """Link a file, which nothing changes any more; copy it to another file system."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target
