# SPDX-License-Identifier: Apache-2.0
"""Which CPU model, and what the host says of KVM. (`launch`: test_machine_launch.py)"""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from qemus import a_qemu

from harness.machine.accel import (
    KvmMemory,
    cpu_model,
    host_khz,
    known_defects,
    kvm_remedy,
    kvm_unusable,
    measured_khz,
)
from harness.machine.qemu import Qemu

OLD = a_qemu(path=Path("/bin/sh"), version="7.2.22")
NEW = a_qemu(path=Path("/bin/sh"), version="10.0.2")


def test_tcg_before_8_gets_a_cpu_without_cmpxchg16b_and_doctor_can_say_why() -> None:
    assert cpu_model("tcg", OLD).endswith("-cx16")
    (defect,) = known_defects(OLD, "tcg")
    assert "cmpxchg16b" in defect.title
    assert "-cx16" in defect.remedy


def test_tcg_clears_pages_eight_bytes_at_a_time_and_kvm_as_the_processor_does() -> None:
    assert cpu_model("tcg", OLD) == "max,-erms,-fsrm,-cx16"
    assert cpu_model("tcg", NEW) == "max,-erms,-fsrm,-fzrm,-fsrs"
    assert cpu_model("kvm", NEW) == "host"


@pytest.mark.parametrize(("accel", "qemu"), [("tcg", NEW), ("kvm", OLD), ("kvm", NEW)])
def test_no_defect_is_known_elsewhere(accel: str, qemu: Qemu) -> None:
    assert "cx16" not in cpu_model(accel, qemu)  # type: ignore[arg-type]
    assert known_defects(qemu, accel) == ()  # type: ignore[arg-type]


def test_kvm_device_that_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in str(kvm_unusable(tmp_path / "kvm"))


def test_kvm_device_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    assert kvm_unusable(device) is None
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert "you may not open" in str(kvm_unusable(device))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"another boot": "why"}'])
def test_memory_that_does_not_read_knows_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accel.json"
    path.write_text(text)
    assert KvmMemory(NEW, path).failure() is None


def test_failures_of_several_qemus_are_remembered_side_by_side(tmp_path: Path) -> None:
    """Three QEMUs in turn forgot each other's, and each guest of one waited 20 s for KVM."""
    path, other = tmp_path / "accel.json", tmp_path / "qemu"
    other.touch()
    KvmMemory(NEW, path).remember("it crawls")
    KvmMemory(replace(NEW, path=other), path).remember("it crashes")
    assert "it crawls" in (KvmMemory(NEW, path).failure() or "")
    assert "it crashes" in (KvmMemory(replace(NEW, path=other), path).failure() or "")


def test_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = KvmMemory(NEW, tmp_path / "file" / "accel.json")
    memory.remember("why")
    assert memory.failure() is None


def test_the_hosts_clock_rate(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    clock = "processor\t: 0\ncpu MHz\t\t: 2445.430\ncache size\t: 512 KB\n"
    cpuinfo.write_text(f"{clock}flags\t\t: fpu tsc constant_tsc\n")
    assert host_khz(cpuinfo, tmp_path) == 2445430
    cpuinfo.write_text("processor\t: 0\n")
    assert host_khz(cpuinfo, tmp_path) == 0


def test_a_frequency_that_changes_is_not_the_clock_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.machine.accel.measured_khz", lambda: 2_100_000)
    cpuinfo = tmp_path / "cpuinfo"
    clock = "processor\t: 0\ncpu MHz\t\t: 800.012\n"
    cpuinfo.write_text(f"{clock}flags\t\t: fpu tsc aperfmperf epb\n")
    assert host_khz(cpuinfo, tmp_path) == 2_100_000
    cpuinfo.write_text(f"{clock}flags\t\t: fpu tsc\n")
    assert host_khz(cpuinfo, tmp_path) == 800_012
    (tmp_path / "policy0").mkdir()
    assert host_khz(cpuinfo, tmp_path) == 2_100_000


def test_the_clock_rate_is_measured_alike_again() -> None:
    first = measured_khz()
    measured_khz.cache_clear()
    assert measured_khz() == pytest.approx(first, rel=0.01)
    assert first > 0


@pytest.mark.parametrize(
    ("mode", "gid", "words"),
    [
        (0o660, 106, "usermod -aG"),
        (0o600, 106, "its group has no access"),
        (0o660, 0, "its group has no access"),
        (0o660, 4_000_000, "its group has no access"),
    ],
)
def test_advice_on_a_device_that_may_not_be_opened_fits_its_group(
    monkeypatch: pytest.MonkeyPatch, mode: int, gid: int, words: str
) -> None:
    """A group that has no name here, or no right, is none to join."""
    device = Mock(stat=lambda: Mock(st_mode=mode, st_gid=gid))

    def name_of(number: int) -> Mock:
        if number == 4_000_000:
            raise KeyError
        return Mock(gr_name="kvm")

    monkeypatch.setattr("grp.getgrgid", name_of)
    assert words in kvm_remedy(device)
