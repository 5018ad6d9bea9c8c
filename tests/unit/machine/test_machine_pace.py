# SPDX-License-Identifier: Apache-2.0
"""Deadlines that grow with the slowness of the machine, and no further than is of use."""

from collections.abc import Iterator

import pytest

from harness.machine import pace as subject
from harness.machine.accel import KVM_BOOT_SECONDS, boot_seconds
from harness.machine.pace import MOST, USUAL_SECONDS, guest_slowness, slowness


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    slowness.cache_clear()
    yield
    slowness.cache_clear()


@pytest.mark.parametrize(("work", "factor"), [(0.1, 1.0), (1.0, 1.0), (8.0, 8.0), (1e6, MOST)])
def test_slowness_by_the_work_that_was_timed(
    monkeypatch: pytest.MonkeyPatch, work: float, factor: float
) -> None:
    monkeypatch.setattr(subject, "_work_seconds", lambda: work * USUAL_SECONDS)
    assert slowness() == pytest.approx(factor)
    assert boot_seconds("kvm") == pytest.approx(KVM_BOOT_SECONDS * factor)


@pytest.mark.parametrize(
    ("host", "boot", "factor"),
    [(1.0, 1.5, 1.0), (1.0, 30.0, 15.0), (8.0, 6.0, 8.0), (1.0, 1e6, MOST)],
)
def test_a_guest_is_as_slow_as_its_boot_was_or_its_host_is(
    monkeypatch: pytest.MonkeyPatch, host: float, boot: float, factor: float
) -> None:
    """Two guests that share the cores of an emulated host were ready after 67 s instead of 40."""
    monkeypatch.setattr(subject, "_work_seconds", lambda: host * USUAL_SECONDS)
    assert guest_slowness(boot, 2.0) == pytest.approx(factor)


def test_one_slow_look_of_several_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9 * USUAL_SECONDS, USUAL_SECONDS] * subject.LOOKS)
    monkeypatch.setattr(subject, "_work_seconds", lambda: next(times))
    assert slowness() == 1.0


def test_this_machine_is_measured_within_a_second() -> None:
    assert 1.0 <= slowness() < MOST
