# SPDX-License-Identifier: Apache-2.0
"""Puts a fake QEMU on disk and launches it."""

import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.machine.launch import launch
from harness.machine.spec import Accelerator, GuestSpec
from harness.machine.vm import VirtualMachine
from harness.units import MIB

PROGRAM = Path(__file__).with_name("fake_qemu.py")
SPEC = GuestSpec(memory=256 * MIB, vcpus=1)


@dataclass(frozen=True)
class FakeBoot:
    kernel: Path
    initramfs: Path
    more: tuple[Path, ...] = ()


@dataclass
class Bench:
    """Launches the fake and keeps the progress messages."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: list[str] = field(default_factory=list)

    @property
    def qemu(self) -> Path:
        return self.directory / "qemu-system-x86_64"

    @property
    def artefacts(self) -> Path:
        return self.directory / "artefacts"

    @property
    def runtime(self) -> Path:
        return self.directory / "run"

    def prepare(self) -> None:
        self.qemu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" "$@"\n')
        self.qemu.chmod(0o755)
        self.runtime.mkdir(mode=0o700)
        (self.directory / "kernel").write_bytes(b"a kernel")
        (self.directory / "initramfs").write_bytes(b"an initramfs!")
        self.monkeypatch.setenv("XDG_RUNTIME_DIR", str(self.runtime))
        self.monkeypatch.setenv("XDG_CACHE_HOME", str(self.directory / "cache"))

    def launch(
        self,
        accel: Accelerator,
        *,
        kvm: str = "ready",
        tcg: str = "ready",
        boot_deadline: float = 20.0,
        spec: GuestSpec = SPEC,
    ) -> VirtualMachine:
        """Launch with these behaviours. Raises what `launch` raises."""
        self.monkeypatch.setenv("FAKE_KVM", kvm)
        self.monkeypatch.setenv("FAKE_TCG", tcg)
        return launch(
            spec,
            FakeBoot(self.directory / "kernel", self.directory / "initramfs"),
            accel=accel,
            qemu=self.qemu,
            artefacts=self.artefacts,
            progress=self.progress.append,
            cancelled=self.cancelled,
            boot_deadline=boot_deadline,
        )

    def leftovers(self) -> list[str]:
        """List the directories and processes left of any VM."""
        found = [path.name for path in self.runtime.iterdir()]
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if os.fsencode(self.runtime) in words:
                found.append(words.decode(errors="replace"))
        return found
