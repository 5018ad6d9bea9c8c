# SPDX-License-Identifier: Apache-2.0
"""Runs without a guest: real planning and running, with scripted boots and steps."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from qemus import a_qemu
from run_builders import noise, ready

from harness.act.discover import VERBS
from harness.act.run_record import RunRecord
from harness.act.session import GuestSession
from harness.errors import GuestError
from harness.image.build import BootFiles
from harness.image.definition import load_definitions
from harness.machine.console import Finding
from harness.record.event_lines import encode
from harness.record.events import Event, Judged
from harness.run import runner as subject
from harness.run.plan import PlannedRun, RunOptions, plan_runs
from harness.scenario.load import load_scenarios

SCENARIO = "name: {name}\ntitle: t\nguest: {{memory: 128MiB}}\nsteps: [settle: {{}}]\n"


READY = SimpleNamespace(kernel=None, initramfs=None)
"""An image that counts as built."""


def planned(directory: Path, name: str = "a-run") -> PlannedRun:
    """Plan a run of a small scenario."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.yaml"
    path.write_text(SCENARIO.format(name=name), encoding="utf-8")
    images = load_definitions()
    (run,) = plan_runs(load_scenarios(path, VERBS), [images["bookworm"]], repeat=1)
    return run


@dataclass
class FakeConsole:
    """Says what it is given."""

    path: Path = Path("console.log")
    findings: list[Finding] = field(default_factory=list)

    def final_findings(self) -> list[Finding]:
        told, self.findings = self.findings, []
        return told

    overflowed: GuestError | None = None

    def count(self, _words: str) -> int:
        return 1

    def overflow(self) -> GuestError | None:
        return self.overflowed


KERNEL_LOG = "[    0.000000] Linux version 6.1.0-test\n"


def a_shell(log: str = KERNEL_LOG, level: int = 7) -> Any:
    """A guest's shell that does what it is told, and knows what its kernel has logged."""
    said = f"{level} 4 1 7\n{log}".encode()
    return SimpleNamespace(run=lambda *_a, **_k: SimpleNamespace(status=0, stdout=said, stderr=b""))


def fake_vm(**changes: Any) -> Any:
    """The part of a VM that the runner uses."""
    return SimpleNamespace(
        **{
            "alive": True,
            "accel": "tcg",
            "defects": "",
            "ssh_argv": ["ssh", "-p", "1", "root@127.0.0.1"],
            "console": FakeConsole(),
            "pace": 1.0,
            "shell": a_shell(),
            "spec": SimpleNamespace(cmdline=""),
            "__enter__": None,
            **changes,
        }
    )


class _Boot:
    """A VM in a `with` block."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm

    def __enter__(self) -> Any:
        return self.vm

    def __exit__(self, *_: object) -> None:
        pass


class FakeWitness:
    """Has seen nothing."""

    def testify(self, *_: object) -> None:
        pass


@dataclass
class FakeBench:
    """Runs scenarios whose boots and steps are functions; keeps their events."""

    results: Path
    monkeypatch: pytest.MonkeyPatch
    events: list[Event] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    boots: list[Callable[[], Any]] = field(default_factory=list)
    """What each boot returns or raises, in turn."""
    work: Callable[[], None] = lambda: None
    """What the steps do."""
    keep_failed: float = 0.0
    retry: int = 0
    least_memory: int = 0

    def prepare(self) -> None:
        patch = self.monkeypatch.setattr
        patch(subject, "launch", lambda *_a, **_k: _Boot(self.boots.pop(0)()))
        patch(subject, "with_packages", lambda boot, *_a, **_k: boot)
        patch(subject, "least_memory", lambda *_a: self.least_memory)
        patch(subject, "missing_needs", lambda *_a: None)
        patch(subject, "missing_in_qemu", lambda *_a: None)
        patch(subject, "write_repro", lambda *_a: None)
        patch(subject, "second_witness", lambda *_a, **_k: _Boot(FakeWitness()))
        patch(GuestSession, "open", self._open)
        patch(subject, "perform", lambda *_a: self.work())

    def _open(self, vm: Any, record: RunRecord, *_a: Any, **_k: Any) -> Any:
        record.add(ready())
        record.add(noise(record.now()))
        guests = [("", vm)]
        return _Boot(
            SimpleNamespace(
                vm=vm,
                read_noise=lambda: record.add(noise(record.now())),
                all_guests=lambda: guests,
            )
        )

    def emit(self, run_id: str, event: Event) -> None:
        encode(run_id, event)  # it must be possible to write it
        self.events.append(event)

    def run(self, run: PlannedRun, boot: Any = READY) -> Judged:
        bench = subject.Bench(
            options=RunOptions(keep_failed=self.keep_failed, retry=self.retry),
            results=self.results,
            qemus={run.qemu.name: a_qemu()},
            emit=self.emit,
            cancelled=self.cancelled,
        )
        return subject.run_scenario(run, cast(BootFiles, boot), bench)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]
