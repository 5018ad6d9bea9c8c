# SPDX-License-Identifier: Apache-2.0
"""`make bench`: the figures of docs/performance.md, measured now, with what they are held to.

Arguments name the sections to run; none: all. A table goes to standard output, progress to
standard error. Guests run under TCG, one at a time; nothing else should.
"""

import json
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline, wait_for
from harness.errors import HarnessError
from harness.guest.churn_client import ChurnSession
from harness.image.build import BootFiles, ensure_image
from harness.image.definition import load_definitions
from harness.machine.interposer import build_interposer
from harness.machine.launch import launch
from harness.machine.qemu_probe import find_qemu
from harness.machine.spec import GuestSpec
from harness.machine.vm import VirtualMachine
from harness.observe.discards import DiscardLog
from harness.observe.mapping import HostMappingReader
from harness.observe.page_audit import take_audit
from harness.observe.ram_layout import RamLayout
from harness.observe.residency import HostResidency
from harness.observe.sampler import Sampler
from harness.record.events import Sample
from harness.run.host_turn import HELD, HostTurn
from harness.units import GIB, MIB, format_size

HARNESS = (sys.executable, "-m", "harness")
TIMES = 5
DISCARDS = 2000
FIRST_LINE = b"fpr-init: start"
SAMPLE_HZ = 10.0
SAMPLE_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    measured: str
    reach: str
    reached: bool


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def image() -> BootFiles:
    return ensure_image(load_definitions()["bookworm"], progress=say)


@contextmanager
def guest(memory: int) -> Iterator[VirtualMachine]:
    """A ready guest under TCG, its artefacts in a directory that goes with it."""
    with (
        tempfile.TemporaryDirectory(prefix="fpr-bench-") as artefacts,
        launch(
            GuestSpec(memory=memory, vcpus=2),
            image(),
            accel="tcg",
            qemu=None,
            artefacts=Path(artefacts),
            progress=say,
            cancelled=threading.Event(),
        ) as vm,
    ):
        yield vm


def spread(values: list[float], unit: str = "s") -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


def boot() -> list[Row]:
    """A boot to the first answer over SSH, by turns with a bare QEMU to init's first line."""
    ready, bare = [], []
    for number in range(TIMES):
        with guest(GIB) as vm:
            ready.append(vm.boot_seconds)
            command = vm.argv_by_hand()
        bare.append(bare_boot(command))
        say(f"boot {number + 1} of {TIMES}: ready {ready[-1]:.2f} s, bare {bare[-1]:.2f} s")
    ratio = statistics.median(ready) / statistics.median(bare)
    return [
        Row("bare QEMU boot to its init's first line", spread(bare), "", True),
        Row(
            "launch to first answered SSH command",
            f"{spread(ready)}: {ratio:.2f} x bare",
            "<= 1.3 x bare",
            ratio <= 1.3,
        ),
    ]


def bare_boot(command: list[str]) -> float:
    """Seconds from QEMU's start to the line with which init begins, by the console's output."""
    with tempfile.TemporaryDirectory(prefix="fpr-bench-") as directory:
        start = time.monotonic()
        with subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as qemu:
            assert qemu.stdout is not None
            try:
                for line in qemu.stdout:
                    if FIRST_LINE in line:
                        return time.monotonic() - start
            finally:
                qemu.kill()
    raise HarnessError(f"the bare boot never said {FIRST_LINE.decode()!r}")


def verdict() -> list[Row]:
    """`fpr-harness run reclaim-basic`, launch to verdict."""
    seconds = []
    for number in range(TIMES):
        with tempfile.TemporaryDirectory(prefix="fpr-bench-") as results:
            subprocess.run(
                [*HARNESS, "run", "reclaim-basic", "--accel", "tcg", "--results", results],
                stdout=subprocess.DEVNULL,
                check=True,
            )
            (run,) = json.loads((Path(results) / "summary.json").read_text())["runs"]
        seconds.append(run["seconds"])
        say(f"reclaim-basic {number + 1} of {TIMES}: {run['verdict']} in {seconds[-1]:.1f} s")
    reached = statistics.median(seconds) <= 45
    return [Row("`reclaim-basic`, launch to verdict", spread(seconds), "<= 45 s", reached)]


def _half_held(vm: VirtualMachine) -> ChurnSession:
    """Half of the guest's memory, written and held."""
    return ChurnSession.start(
        vm.shell, size=vm.spec.memory // 2, seed=1, hugepages="default", timeout=180.0
    )


def audit() -> list[Row]:
    """A page audit of a 6 GiB guest, half of it held by the churn tool."""
    whole, host, growth = [], [], []
    with guest(6 * GIB) as vm, _half_held(vm) as churn:
        layout = RamLayout.read(vm.monitor)
        residency, mapping = HostResidency(vm.pid, layout), HostMappingReader(vm.pid, layout)
        for number in range(TIMES):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.monotonic()
            reading, _ = take_audit(vm.shell, residency, mapping.read, held_by=[churn.pid])
            whole.append(time.monotonic() - start)
            host.append(reading.host_seconds)
            growth.append(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
            say(f"audit {number + 1} of {TIMES}: {whole[-1]:.2f} s, host {host[-1]:.3f} s")
    return [
        Row("page audit of 6 GiB", spread(whole), "<= 1 s", statistics.median(whole) <= 1),
        Row("... the host's part", spread(host), "<= 0.15 s", statistics.median(host) <= 0.15),
        Row("... growth of peak memory", f"{max(growth):.0f} MiB", "<= 64 MiB", max(growth) <= 64),
    ]


def sampling() -> list[Row]:
    """The sampler at 10 Hz for 60 s, while the guest reports its free memory and then rests."""
    samples: list[Sample] = []
    with guest(GIB) as vm, tempfile.TemporaryDirectory(prefix="fpr-bench-") as raw:
        layout = RamLayout.read(vm.monitor)
        sampler = Sampler(
            shell=vm.shell,
            mapping=HostMappingReader(vm.pid, layout),
            discards=DiscardLog(vm.discard_log, layout),
            hz=SAMPLE_HZ,
            sink=samples.append,
            relative=lambda at: at,
            raw_path=Path(raw) / "counters",
        )
        start, busy = time.monotonic(), time.process_time()
        sampler.start()
        wait_for(
            lambda: len(samples) >= SAMPLE_HZ * SAMPLE_SECONDS or None,
            Deadline(SAMPLE_SECONDS + 10, "the samples"),
            interval=0.5,
        )
        share = (time.process_time() - busy) / (time.monotonic() - start)
        sampler.stop()
    ticks = [(sample.t - start) * SAMPLE_HZ for sample in samples]
    late = sorted(abs(tick - round(tick)) / SAMPLE_HZ for tick in ticks)
    at_99 = late[int(len(late) * 0.99)]
    blind = sum(sample.guest_free is None for sample in samples[int(SAMPLE_HZ) :])
    lost = sampler.lost + blind
    return [
        Row("samples lost at 10 Hz in 60 s, guest or host", str(lost), "0", lost == 0),
        Row("99 % of them within", f"{at_99 * 1000:.1f} ms of their time", "20 ms", at_99 <= 0.02),
        Row("the sampler's share of a core", f"{share:.1%}", "<= 3 %", share <= 0.03),
    ]


def initramfs() -> list[Row]:
    size = image().initramfs.stat().st_size
    return [Row("initramfs", format_size(size), "<= 6 MB", size <= 6_000_000)]


# A block of 2 MiB is written, then discarded as QEMU does it; the time of the discards alone.
_DISCARDS = f"""
import ctypes, mmap, time
libc = ctypes.CDLL(None)
memory = mmap.mmap(-1, {4 * MIB}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = -(-ctypes.addressof(ctypes.c_char.from_buffer(memory)) // {2 * MIB}) * {2 * MIB}
spent = 0
for _ in range({DISCARDS}):
    ctypes.memset(base, 1, {2 * MIB})
    start = time.thread_time_ns()
    libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t({2 * MIB}), {mmap.MADV_DONTNEED})
    spent += time.thread_time_ns() - start
print(spent / {DISCARDS})
"""


def interposer() -> list[Row]:
    """What the preloaded object costs a discard when it changes none."""
    say(f"interposer: {DISCARDS} discards, {2 * TIMES} times")

    def microseconds(environment: dict[str, str]) -> float:
        ended = subprocess.run(
            [sys.executable, "-c", _DISCARDS],
            env={**os.environ, **environment},
            capture_output=True,
            check=True,
        )
        return float(ended.stdout) / 1000

    preloaded = {"LD_PRELOAD": str(build_interposer())}
    pairs = [(microseconds({}), microseconds(preloaded)) for _ in range(TIMES)]
    plain, loaded = (statistics.median(column) for column in zip(*pairs, strict=True))
    noise = max(a for a, _ in pairs) - min(a for a, _ in pairs)
    return [
        Row(
            "discard of a 2 MiB block with the interposer preloaded and no fault selected",
            f"{loaded:.1f} us, without it {plain:.1f} us (its spread: {noise:.1f} us)",
            "none measurable",
            loaded - plain <= noise,
        )
    ]


SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "boot": boot,
    "verdict": verdict,
    "audit": audit,
    "sampling": sampling,
    "initramfs": initramfs,
    "interposer": interposer,
}


def machine() -> str:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{len(os.sched_getaffinity(0))} cores, {format_size(memory // MIB * MIB)}, Linux "
        f"{platform.release()}, QEMU {find_qemu(None).version} under TCG, guest "
        f"{image().release}, Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}"
    )


def main(names: list[str]) -> int:
    unknown = set(names) - SECTIONS.keys()
    if unknown:
        say(f"no section is called {', '.join(unknown)}; sections are: {', '.join(SECTIONS)}")
        return 2
    rows: list[Row] = []
    with HostTurn(note=say).take(alone=True, cancelled=threading.Event()):
        os.environ[HELD] = "1"
        for name in names or SECTIONS:
            try:
                rows += SECTIONS[name]()
            except (HarnessError, subprocess.SubprocessError) as error:
                rows.append(Row(name, f"not measured: {error}".splitlines()[0], "", reached=False))
    print(f"{machine()}\n\n| what | measured | reach | |\n|---|---|---|---|")
    for row in rows:
        mark = "" if not row.reach else "reached" if row.reached else "**not reached**"
        print(f"| {row.what} | {row.measured} | {row.reach} | {mark} |")
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
