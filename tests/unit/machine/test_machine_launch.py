# SPDX-License-Identifier: Apache-2.0
"""Which accelerator `launch` takes, what it says about it, and what it remembers."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from qemus import a_qemu

from harness.errors import BootError, HarnessError, InterruptedRunError, LaunchError
from harness.machine import launch as subject
from harness.machine.spec import Clock, GuestSpec, Launch
from harness.machine.vm import VirtualMachine
from harness.units import MIB

MSR = "QEMU was killed by SIGABRT: error: failed to set MSR 0x10a"


@dataclass(frozen=True)
class Boot:
    kernel: Path = Path("/kernel")
    initramfs: Path = Path("/initramfs")
    more: tuple[Path, ...] = ()


class Guest(str):
    """What `boot` returns."""

    as_root = ""


@dataclass
class Host:
    """A host whose accelerators fail as told; `launch` on it."""

    directory: Path
    failures: dict[str, HarnessError] = field(default_factory=dict)
    on_boot: Callable[[], None] = lambda: None
    as_root: str = ""
    booted: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def boot(self, _given: Launch, accel: str) -> Guest:
        self.booted.append(accel)
        self.on_boot()
        if error := self.failures.get(accel):
            raise error
        guest = Guest(f"guest under {accel}")
        guest.as_root = self.as_root
        return guest

    def launch(self, accel: Any = "auto", clock: Clock = "real") -> object:
        return subject.launch(
            GuestSpec(memory=256 * MIB, vcpus=1, clock=clock),
            Boot(),
            accel=accel,
            qemu=None,
            artefacts=self.directory,
            progress=self.said.append,
            cancelled=self.cancelled,
        )

    @property
    def memory(self) -> Path:
        return self.directory / "fpr-harness" / "accel.json"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    qemu = tmp_path / "qemu"
    qemu.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host = Host(tmp_path)
    monkeypatch.setattr(VirtualMachine, "boot", host.boot)
    monkeypatch.setattr(subject, "find_qemu", lambda _given: a_qemu(path=qemu))
    monkeypatch.setattr(subject, "kvm_unusable", lambda: None)
    return host


def test_auto_takes_a_kvm_under_which_the_guest_becomes_ready(host: Host) -> None:
    assert host.launch() == "guest under kvm"
    assert host.said == ["accelerator KVM: the guest became ready under it"]
    assert not host.memory.exists()


def test_a_qemu_that_has_to_run_as_root_is_told(host: Host) -> None:
    host.as_root = "/dev/kvm is for root only"
    host.launch("kvm")
    assert host.said == ["QEMU runs as root: /dev/kvm is for root only"]


@pytest.mark.parametrize(
    "failure",
    [
        LaunchError(MSR),
        BootError("the guest did not become ready under kvm: QEMU paused the guest"),
        BootError("the guest did not become ready under kvm: waited 20.0 s\nIts console ended"),
    ],
)
def test_auto_takes_tcg_where_kvm_fails_and_says_why(host: Host, failure: HarnessError) -> None:
    host.failures["kvm"] = failure
    assert host.launch() == "guest under tcg"
    assert host.booted == ["kvm", "tcg"]
    first_line = failure.message.splitlines()[0]
    assert host.said == [f"accelerator TCG, because KVM is not usable here: {first_line}"]


def test_failure_of_kvm_is_remembered_and_can_be_forgotten(host: Host) -> None:
    host.failures["kvm"] = LaunchError(MSR)
    host.launch()
    assert list(json.loads(host.memory.read_text()).values()) == [MSR]

    host.booted.clear()
    host.launch()
    assert host.booted == ["tcg"]
    assert MSR in host.said[-1]
    assert f"remembered in {host.memory}; delete it to try again" in host.said[-1]

    host.memory.unlink()
    host.booted.clear()
    host.launch()
    assert host.booted == ["kvm", "tcg"]


def test_another_qemu_is_tried_anew(host: Host) -> None:
    host.failures["kvm"] = LaunchError(MSR)
    host.launch()
    (host.directory / "qemu").write_text("updated")
    host.booted.clear()
    host.launch()
    assert host.booted == ["kvm", "tcg"]


def test_kvm_is_not_blamed_for_an_image_that_boots_nowhere(host: Host) -> None:
    broken = BootError("the guest did not become ready: Kernel panic - not syncing")
    host.failures = {"kvm": broken, "tcg": broken}
    with pytest.raises(BootError):
        host.launch()
    assert not host.memory.exists()


def test_device_that_cannot_be_opened_needs_no_try(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "kvm_unusable", lambda: "/dev/kvm does not exist")
    assert host.launch() == "guest under tcg"
    assert host.booted == ["tcg"]
    assert "/dev/kvm does not exist" in host.said[0]
    with pytest.raises(LaunchError, match="--accel kvm: /dev/kvm does not exist"):
        host.launch("kvm")
    assert host.booted == ["tcg"]


def test_kvm_on_request_never_becomes_tcg(host: Host) -> None:
    host.failures["kvm"] = LaunchError(MSR)
    with pytest.raises(LaunchError, match="failed to set MSR"):
        host.launch("kvm")
    assert host.booted == ["kvm"]


def test_tcg_on_request_does_not_try_kvm(host: Host) -> None:
    assert host.launch("tcg") == "guest under tcg"
    assert host.booted == ["tcg"]


def test_stopping_the_run_while_kvm_is_tried_says_nothing_about_kvm(host: Host) -> None:
    host.failures["kvm"] = InterruptedRunError("the run was asked to stop")
    host.on_boot = host.cancelled.set
    with pytest.raises(InterruptedRunError):
        host.launch()
    assert host.booted == ["kvm"]
    assert not host.memory.exists()


def test_qemu_ended_by_a_stop_says_nothing_about_kvm(host: Host) -> None:
    """`stop_all` ends QEMU under the waiting launch: its end is not KVM's fault."""
    host.failures["kvm"] = LaunchError("QEMU was killed by SIGTERM")
    host.on_boot = host.cancelled.set
    with pytest.raises(InterruptedRunError):
        host.launch()
    assert host.booted == ["kvm"]


def test_a_virtual_clock_takes_tcg_and_never_kvm(host: Host) -> None:
    assert host.launch(clock="virtual") == "guest under tcg"
    assert host.said == ["accelerator TCG, because the clock is virtual"]
    assert host.launch("tcg", clock="virtual") == "guest under tcg"
    with pytest.raises(LaunchError, match="which KVM does not do"):
        host.launch("kvm", clock="virtual")
    assert host.booted == ["tcg", "tcg"]
    assert not host.memory.exists()


def test_a_virtual_clock_where_kvm_is_not_usable_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "kvm_unusable", lambda: "/dev/kvm does not exist")
    host.launch(clock="virtual")
    reason = "KVM is not usable here: /dev/kvm does not exist"
    assert host.said == [f"accelerator TCG, because the clock is virtual; {reason}"]
