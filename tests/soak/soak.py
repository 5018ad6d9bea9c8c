# SPDX-License-Identifier: Apache-2.0
"""Clean runs, many of them, on a busy host: nothing is broken, so nothing may FAIL.

    make soak N=100                     runs: the default set and what frees lazily, on one guest
                                        image after another
    make soak IMAGES=bookworm,trixie    only on these; none, or `all`: on every one
    ARGS="--accel kvm"                  passed on to `fpr-harness run`
    ARGS="--results DIR"                goes on with the soak in DIR, up to N= runs in all

The host's CPUs, memory and disk are at work meanwhile, and now and then a QEMU is stopped for a
second or two (SIGSTOP), as an overcommitted host stalls a guest's CPUs.

Prints a line for each batch and a report at the end; ends with status 1 if any run was a FAIL, or
more than one in fifty a MISS.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.act.discover import VERBS
from harness.image.definition import load_definitions
from harness.scenario.selection import find_scenarios
from harness.units import GIB, MIB

TAGS = ("default", "madv-free")
IN_A_BATCH = 24
JOBS = 2
STALL_EVERY = (5.0, 15.0)
STALL_SECONDS = (0.5, 2.0)
"""Bounds of what is drawn at random: the time between two stalls, and that of one."""
BATCH_SECONDS = 2700.0
GOOD = ("PASS", "DONE")
MOST_MISSES = 0.02
"""Of all runs."""


def burn_cpu() -> None:
    """One core, half of the time."""
    while True:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        time.sleep(0.3)


def churn_memory() -> None:
    """A gibibyte, taken and given back."""
    while True:
        memory = bytearray(GIB)
        memory[:: 4 << 10] = b"x" * len(memory[:: 4 << 10])
        del memory
        time.sleep(1.0)


def write_disk(directory: str) -> None:
    """Files of 64 MiB, each brought to the disk."""
    data = os.urandom(MIB)
    while True:
        with (Path(directory) / "load").open("wb") as file:
            for _ in range(64):
                file.write(data)
            os.fsync(file.fileno())
        time.sleep(0.5)


def until_ended(work: Callable[..., None], *arguments: str) -> None:
    """Leaves Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(*arguments)


@contextmanager
def busy_host() -> Iterator[None]:
    """CPU, memory and disk at work; daemons, so that they end with this process."""
    with tempfile.TemporaryDirectory(prefix="fpr-soak-") as directory:
        works = [
            multiprocessing.Process(target=until_ended, args=work, daemon=True)
            for work in ((burn_cpu,), (churn_memory,), (write_disk, directory))
        ]
        for work in works:
            work.start()
        try:
            yield
        finally:
            for work in works:
                work.terminate()
                work.join()


def qemus_of(run: int) -> list[int]:
    """The QEMUs whose harness is process `run`: they are its children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            words = (entry / "cmdline").read_bytes()
            if int(parent) == run and b"guest=fpr-" in words:
                found.append(int(entry.name))
    return found


def stall(run: subprocess.Popen[bytes], deadline: float) -> int:
    """Stop one QEMU of this run after another until it ends; returns how many were stopped."""
    stalls = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(random.uniform(*STALL_EVERY))
            return stalls
        for qemu in random.sample(found := qemus_of(run.pid), min(1, len(found))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(qemu, signal.SIGSTOP)
                try:
                    time.sleep(random.uniform(*STALL_SECONDS))
                finally:
                    os.kill(qemu, signal.SIGCONT)
                stalls += 1
    run.terminate()
    run.wait(60.0)
    return stalls


def batch(names: Sequence[str], results: Path, options: Sequence[str]) -> None:
    """One invocation, with a log beside its results."""
    words = [sys.executable, "-m", "harness", "run", *names, "--jobs", str(JOBS), *options]
    with (
        (results.parent / f"{results.name}.log").open("wb") as log,
        subprocess.Popen([*words, "--results", str(results)], stdout=log, stderr=log) as run,
    ):
        print(f"{stall(run, time.monotonic() + BATCH_SECONDS)} stalls", end=" ", flush=True)


def least_run(runs: Sequence[dict[str, Any]], count: int) -> list[str]:
    """Names of so many scenarios, in turn: those with the fewest runs first, else at random."""
    done = Counter(run["scenario"] for run in runs)
    names = [scenario.name for scenario in find_scenarios([], VERBS, tags=TAGS)]
    random.shuffle(names)
    names.sort(key=lambda name: done[name])
    return list(itertools.islice(itertools.cycle(names), max(0, count)))


def recorded(batch: Path) -> list[dict[str, Any]]:
    """The runs of a batch that has ended."""
    runs: list[dict[str, Any]] = json.loads((batch / "summary.json").read_text())["runs"]
    return runs


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Verdicts by scenario, and the reason of all that did not pass."""
    verdicts = Counter(run["verdict"] for run in runs)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    lines = [f"{len(runs)} clean runs on a busy host: {counts}"]
    lines.append(f"false FAILs: {verdicts['FAIL']}; MISS: {verdicts['MISS'] / len(runs):.1%}")
    for field in ("scenario", "kernel"):
        for name in sorted({str(run[field]) for run in runs}):
            of_it = [run for run in runs if str(run[field]) == name]
            passed = sum(run["verdict"] in GOOD for run in of_it)
            times = sorted(run["seconds"] for run in of_it)
            lines.append(
                f"  {field} {name}: {passed} of {len(of_it)} passed, "
                f"{times[0]:.0f}/{times[len(times) // 2]:.0f}/{times[-1]:.0f} s (least/median/most)"
            )
    lines += [
        f"  {run['verdict']} {run['cause'] or ''} {run['scenario']} on {run['kernel']}: "
        f"{run['reason']}"
        for run in runs
        if run["verdict"] not in GOOD
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=100, help="clean runs (default: 100)")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--image", default="all", metavar="NAME,...")
    arguments, options = parser.parse_known_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    under_way = arguments.results / "under-way"
    shutil.rmtree(under_way, ignore_errors=True)
    earlier = sorted(path.parent for path in arguments.results.glob("batch-*/summary.json"))
    runs = [run for each in earlier for run in recorded(each)]
    names = least_run(runs, arguments.n - len(runs))
    every = list(load_definitions())
    images = every if arguments.image == "all" else arguments.image.split(",")
    start = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), busy_host():
        for first in range(0, len(names), IN_A_BATCH):
            number = len(earlier) + first // IN_A_BATCH
            image = images[number % len(images)]
            ended = arguments.results / f"batch-{number:04}-{image}"
            batch(names[first : first + IN_A_BATCH], under_way, ["--image", image, *options])
            under_way.rename(ended)
            runs += recorded(ended)
            counts = dict(Counter(run["verdict"] for run in runs))
            print(
                f"{time.monotonic() - start:6.0f}s  {len(runs)}/{arguments.n}: {counts}", flush=True
            )
            (arguments.results / "report.txt").write_text(report(runs) + "\n")
    if len(runs) < arguments.n:
        print(f"interrupted; `--results {arguments.results}` goes on with it", file=sys.stderr)
    if not runs:
        return 1
    print(report(runs))
    verdicts = Counter(run["verdict"] for run in runs)
    good = not verdicts["FAIL"] and verdicts["MISS"] <= MOST_MISSES * len(runs)
    return 0 if good and len(runs) >= arguments.n else 1


if __name__ == "__main__":
    sys.exit(main())
