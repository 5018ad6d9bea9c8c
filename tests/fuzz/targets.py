# SPDX-License-Identifier: Apache-2.0
"""Every reader of what a guest, a host or a file says, as a function of bytes.

Anything but the project's own errors that one raises is an escape. Readers inside a model, which
turns a `ValueError` into a mistake with its line, may raise that too.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from page_rounds import decode_pages
from scripted_guest import LineGuest, ScriptedGuest

from harness.act.discover import VERBS
from harness.errors import HarnessError
from harness.guest.churn_client import ChurnSession
from harness.guest.counter_stream import read_counters
from harness.guest.proc_text import parse_buddyinfo, parse_meminfo, parse_vmstat, parse_zones
from harness.image.archive import choose_archive, signed_by
from harness.image.cache import is_intact
from harness.image.definition import load_definitions
from harness.image.kernel import kernel_release
from harness.image.modules import module_dependencies, parse_builtin
from harness.machine.cgroup import candidates
from harness.machine.console import ConsoleScanner
from harness.machine.uname import parse_release
from harness.observe.features import parse_state
from harness.observe.guest_vmas import parse_mappings
from harness.observe.host_noise import parse_noise
from harness.observe.mapping import parse_smaps
from harness.observe.page_walk import copy_pagemap
from harness.observe.ram_layout import (
    parse_flat_view,
    parse_host_address,
    parse_ram_blocks,
    parse_system_ram,
)
from harness.record.audit_file import load_audit
from harness.record.event_lines import decode
from harness.scenario.load import load_scenarios
from harness.units import parse_duration, parse_size
from harness.verdict.expressions import parse_check, parse_condition
from harness.yamlfile import parse_value

TESTS = Path(__file__).parents[1]
SEEDS = Path(__file__).with_name("seeds")
"""A directory for each target whose seeds are no recorded data: inputs that once escaped too."""

PFN_END = 1 << 16
"""A guest of 256 MiB."""


@dataclass(frozen=True)
class Target:
    """One reader. `recorded` are files of tests/data to begin from, beside its seeds."""

    name: str
    read: Callable[[bytes], object]
    recorded: tuple[str, ...] = ()
    allowed: tuple[type[Exception], ...] = ()
    """What it may raise beside the project's own."""

    def __call__(self, data: bytes) -> None:
        """Raises what escapes."""
        with contextlib.suppress(HarnessError, *self.allowed):
            self.read(data)

    @property
    def seeds(self) -> list[bytes]:
        """Good inputs and bad ones, smallest first; an empty one where there is none."""
        files = [path for path in sorted((SEEDS / self.name).glob("*")) if path.is_file()]
        for pattern in self.recorded:
            files += sorted((TESTS / "data").glob(pattern))
        return sorted({path.read_bytes() for path in files} or {b""}, key=len)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="replace"))


def _console(data: bytes) -> None:
    scanner = ConsoleScanner()
    for start in range(0, len(data), 100):
        scanner.feed(data[start : start + 100])
    scanner.finish()


def _zones(text: str) -> object:
    zoneinfo, _, buddyinfo = text.partition("=")
    return parse_zones(zoneinfo, buddyinfo)


def _churn(data: bytes) -> object:
    guest = LineGuest(data)
    with ChurnSession.start(guest, size=1 << 23, seed=1, hugepages="never", timeout=1.0) as churn:
        return churn.free_all(), churn.verify(1.0)


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """For readers of files; the directory goes with the process."""
    directory = Path(tempfile.mkdtemp(prefix="fpr-fuzz-", dir=_scratch()))

    def run(data: bytes) -> object:
        path = directory / name
        path.write_bytes(data)
        return read(path)

    return run


_SCRATCH: list["tempfile.TemporaryDirectory[str]"] = []


def _scratch() -> str:
    if not _SCRATCH:
        _SCRATCH.append(tempfile.TemporaryDirectory(prefix="fpr-fuzz-"))
    return _SCRATCH[0].name


def _pagemap(path: Path) -> object:
    states = np.empty(64, dtype=np.uint8)
    # It ended early: the caller knows the process, and says so.
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        copy_pagemap(file.fileno(), 0, states)
    return states


def _audit(path: Path) -> object:
    return load_audit(path).reduce()


def _json(parse: Callable[[object], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return parse(value)

    return run


def _names(values: Iterable[Target]) -> dict[str, Target]:
    return {target.name: target for target in values}


TARGETS = _names(
    [
        # what a guest says
        Target("pages", lambda data: decode_pages(data, PFN_END)),
        Target("counters", lambda data: read_counters(ScriptedGuest(data))),
        Target("churn", _churn),
        Target("release", parse_release),
        Target("console", _console, ("console/*.log",)),
        Target("meminfo", _text(parse_meminfo), ("observe/meminfo.txt",)),
        Target("vmstat", _text(parse_vmstat), ("observe/vmstat.txt",)),
        Target("buddyinfo", _text(parse_buddyinfo), ("kernels/6.1*/buddyinfo.txt",)),
        Target("zones", _text(_zones)),
        Target("features", _text(lambda text: parse_state(text, offered=True))),
        Target("system-ram", _text(parse_system_ram), ("kernels/6.1*/iomem.txt",)),
        # what the host says
        Target(
            "smaps",
            lambda data: parse_smaps(data, ((0x7F0000000000, 0x7F0040000000),)),
            ("observe/smaps-split.txt",),
        ),
        Target("maps", parse_mappings, ("observe/smaps-split.txt",)),
        Target("noise", _text(lambda text: parse_noise(1.0, text, text, text))),
        Target("cgroups", _text(lambda text: candidates(text, text)), ("host/cgroup-v*.txt",)),
        Target("pagemap", _in_file("pagemap", _pagemap)),
        Target("flat-view", _text(parse_flat_view), ("observe/layout-*.json",)),
        Target("ram-blocks", _text(parse_ram_blocks), ("observe/layout-*.json",)),
        Target("host-address", _text(parse_host_address)),
        # files
        Target("elf", module_dependencies),
        Target("bzimage", _in_file("bzImage", kernel_release)),
        Target("builtin", _text(parse_builtin), ("image/modules.builtin-*",)),
        Target("npz", _in_file("audit.npz", _audit)),
        Target("events", decode, allowed=(ValueError,)),
        Target("seal", _in_file("sha256.json", lambda path: is_intact(path.parent, "x"))),
        Target("scenario", _in_file("x.yaml", lambda path: load_scenarios(path, VERBS))),
        Target("image", _in_file("bookworm.yaml", lambda path: load_definitions(path.parent))),
        Target("sources", _text(lambda text: signed_by(text, "http://archive.example/debian"))),
        Target("indextargets", _text(choose_archive), allowed=(ValueError,)),
        # text of a person
        Target("set", _text(parse_value), allowed=(ValueError,)),
        Target("condition", _text(parse_condition), allowed=(ValueError,)),
        Target("check", _text(parse_check), allowed=(ValueError,)),
        Target("size", _text(parse_size), allowed=(ValueError,)),
        Target("duration", _text(parse_duration), allowed=(ValueError,)),
    ]
)
