# SPDX-License-Identifier: Apache-2.0
"""Three invocations at once, with as many guests as the machine admits: nothing may FAIL.

    make load N=200                     runs in all
    ARGS="--limit 6GiB"                 in a control group with this much memory (as root)

They know nothing of each other but the memory that each has reserved. Beside them, a sampler adds
up what their QEMUs may still take: memory is overcommitted if that is ever more than is available.
Prints a report; ends with status 1 if any run was a FAIL, if memory was overcommitted, or if the
kernel killed anything for lack of it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine.cgroup import group_room, host_oom_kills, memory_file, oom_kills
from harness.machine.host_pressure import MemoryGroup
from harness.observe.host_noise import HostNoiseReader
from harness.units import MIB, PAGE_SIZE, format_size, parse_size

INVOCATIONS = 3
JOBS = 64
"""More than any machine admits."""

SCENARIOS = ("reclaim-basic", "control-reporting-off")
RUN_SECONDS = 600.0
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Look:
    """What the invocations' QEMUs had at one moment, in bytes."""

    guests: int
    memory: int
    """Of their guests."""
    to_take: int
    """Of that, not resident yet."""
    available: int

    @property
    def overcommitted(self) -> bool:
        return self.to_take > self.available


def look(invocations: Iterable[int]) -> Look:
    """Adds up QEMUs that are children of these processes."""
    sizes = [size for pid in invocations for size in _guests_of(pid)]
    return Look(
        guests=len(sizes),
        memory=sum(memory for memory, _ in sizes),
        to_take=sum(max(0, memory - resident) for memory, resident in sizes),
        available=_available(),
    )


def _guests_of(pid: int) -> Iterator[tuple[int, int]]:
    """Memory and resident bytes of each guest; a process that has just ended has none."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
                    resident = int(Path(f"/proc/{child}/statm").read_text().split()[1])
                    megabytes = words[words.index("-m") + 1].partition("M")[0]
                    yield int(megabytes) * MIB, resident * PAGE_SIZE


def _available() -> int:
    available = HostNoiseReader().read().mem_available
    charge = memory_file(os.getpid())
    room = group_room(charge) if charge is not None else None
    return available if room is None else min(available, room)


@contextmanager
def looking(invocations: Sequence[int], looks: list[Look]) -> Iterator[None]:
    """Looks until the block ends."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(LOOK_SECONDS):
            looks.append(look(invocations))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def limited(size: int) -> Iterator[None]:
    """A control group of so many bytes for this process and all that it starts; 0: none."""
    if not size:
        yield
        return
    home = memory_file(os.getpid())
    group = MemoryGroup.make("fpr-load", os.getpid())
    try:
        group.limit(size)
        yield
    finally:
        assert home is not None
        home.with_name("cgroup.procs").write_text(str(os.getpid()))
        group.remove()


def kills() -> int:
    """OOM kills so far, on the host and in this process's control group."""
    charge = memory_file(os.getpid())
    return host_oom_kills() + (oom_kills(charge) if charge is not None else 0)


def run_all(
    results: Path, repeat: int, options: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Look]]:
    """All runs of the invocations, and what was seen meanwhile."""
    words = [sys.executable, "-m", "harness", "run", *SCENARIOS, "--repeat", str(repeat)]
    words += ["--jobs", str(JOBS), *options]
    processes, looks = [], list[Look]()
    try:
        for number in range(INVOCATIONS):
            place = results / f"invocation-{number}"
            with (results / f"invocation-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen([*words, "--results", str(place)], stdout=log, stderr=log)
                )
        with looking([process.pid for process in processes], looks):
            for process in processes:
                process.wait(RUN_SECONDS * repeat)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    runs: list[dict[str, Any]] = []
    for number in range(INVOCATIONS):
        summary = results / f"invocation-{number}" / "summary.json"
        runs += json.loads(summary.read_text(encoding="utf-8"))["runs"]
    return runs, looks


def report(
    runs: Sequence[dict[str, Any]], looks: Sequence[Look], seconds: float, killed: int
) -> str:
    """What happened, in a few lines."""
    verdicts = Counter(run["verdict"] for run in runs)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    most = max(looks, key=lambda each: each.guests)
    least = min(looks, key=lambda each: each.available - each.to_take)
    over = sum(each.overcommitted for each in looks)
    lines = [
        f"{len(runs)} runs of {INVOCATIONS} invocations in {seconds / 60:.0f} min: {counts}",
        f"false FAILs: {verdicts['FAIL']}; OOM kills: {killed}",
        f"most guests at once: {most.guests}, with {format_size(most.memory)}",
        f"memory overcommitted at {over} of {len(looks)} looks; when it was closest, guests could "
        f"still take {format_size(least.to_take)} of {format_size(least.available)} available",
    ]
    lines += [
        f"  {run['verdict']} {run['cause'] or ''} {run['scenario']}: {run['reason']}"
        for run in runs
        if run["verdict"] != "PASS"
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=200, help="runs in all (default: 200)")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--limit", default="0", metavar="SIZE", help="memory for all of it")
    arguments, options = parser.parse_known_args()
    arguments.results.mkdir(parents=True)
    repeat = -(-arguments.n // (INVOCATIONS * len(SCENARIOS)))
    start = time.monotonic()
    with limited(parse_size(arguments.limit) if arguments.limit != "0" else 0):
        before = kills()
        runs, looks = run_all(arguments.results, repeat, options)
        killed = kills() - before
    words = report(runs, looks, time.monotonic() - start, killed)
    (arguments.results / "report.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    failed = any(run["verdict"] == "FAIL" for run in runs)
    return 1 if failed or killed or any(each.overcommitted for each in looks) else 0


if __name__ == "__main__":
    sys.exit(main())
