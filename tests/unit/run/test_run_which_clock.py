# SPDX-License-Identifier: Apache-2.0
"""Which clock a run has where the command line leaves it open (`--clock auto`)."""

from pathlib import Path

import pytest
from qemus import a_qemu

from harness.act.discover import VERBS
from harness.errors import UsageError
from harness.run import which_clock as subject
from harness.run.plan import RunOptions
from harness.run.which_clock import clock_for
from harness.scenario.selection import find_scenarios

BASIC, RACES, NODES = find_scenarios(["reclaim-basic", "reused-at-once", "numa-two-nodes"], VERBS)
AUTO = RunOptions(clock="auto")


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "kvm_unusable", lambda: "/dev/kvm does not exist")


def test_it_is_virtual_without_kvm_and_real_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (qemu := tmp_path / "qemu").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert clock_for(BASIC, AUTO, a_qemu(path=qemu)) == "virtual"
    monkeypatch.setattr(subject, "kvm_unusable", lambda: None)
    assert clock_for(BASIC, AUTO, a_qemu(path=qemu)) == "real"


def test_kvm_that_failed_before_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        def __init__(self, _qemu: object) -> None:
            pass

        def failure(self) -> str:
            return "QEMU was killed"

    monkeypatch.setattr(subject, "kvm_unusable", lambda: None)
    monkeypatch.setattr(subject, "KvmMemory", Failed)
    assert clock_for(BASIC, AUTO, a_qemu()) == "virtual"


@pytest.mark.parametrize(("accel", "clock"), [("tcg", "virtual"), ("kvm", "real")])
def test_the_accelerator_asked_for_decides(accel: str, clock: str) -> None:
    options = RunOptions(clock="auto", accel=accel)  # type: ignore[arg-type]
    assert clock_for(BASIC, options, a_qemu()) == clock


def test_what_is_not_good_for_the_virtual_clock_keeps_the_real_one() -> None:
    assert clock_for(RACES, AUTO, a_qemu()) == "real", "it has a `race`"
    assert clock_for(NODES, AUTO, a_qemu()) == "virtual"
    assert clock_for(NODES, AUTO, a_qemu(version="7.2.22")) == "real", "two vCPUs take 8.1"
    assert clock_for(BASIC, AUTO, UsageError("no such QEMU")) == "real"


def test_a_clock_that_was_asked_for_is_taken() -> None:
    assert clock_for(BASIC, RunOptions(clock="real"), a_qemu()) == "real"
    assert clock_for(RACES, RunOptions(clock="virtual"), a_qemu()) == "virtual", "a SKIP later"
