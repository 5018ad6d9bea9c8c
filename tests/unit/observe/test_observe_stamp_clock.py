# SPDX-License-Identifier: Apache-2.0
"""Stamps of QEMU's trace on the monotonic clock while somebody sets the host's clock."""

import time

import pytest

from harness.observe.stamp_clock import StampClock


class Host:
    """A host's two clocks."""

    def __init__(self) -> None:
        self.steady, self.wall = 1000.0, 2e9

    def passes(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(time, "monotonic", lambda: made.steady)
    monkeypatch.setattr(time, "time", lambda: made.wall)
    return made


def test_a_stamp_is_where_the_clocks_put_it(host: Host) -> None:
    clock = StampClock()
    stamp = host.wall + 0.25
    host.passes(1.0)
    clock.look()
    assert clock.place(stamp) == pytest.approx(1000.25)
    assert clock.place(None) == 1001.0


@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.2, -86400 * 365.0])
def test_lines_before_and_after_a_step_stand_in_their_order(host: Host, step: float) -> None:
    clock = StampClock()
    host.passes(1.0)
    clock.look()
    host.passes(0.02)
    before = host.wall
    host.passes(0.02)
    host.wall += step
    after = host.wall
    host.passes(0.06)
    clock.look()
    assert clock.place(before) == pytest.approx(1001.02)
    assert clock.place(after) == pytest.approx(1001.04)
    host.passes(1.0)  # and all is as usual from the next read on
    clock.look()
    assert clock.place(host.wall - 0.5) == pytest.approx(1001.6)


def test_a_clock_stepped_to_and_fro_between_two_reads_leaves_the_moment_of_reading(
    host: Host,
) -> None:
    clock = StampClock()
    stamp = host.wall + 7200
    host.passes(0.1)
    host.wall += 3600
    clock.look()
    assert clock.place(stamp) == pytest.approx(1000.1)


def test_no_line_is_of_the_future(host: Host) -> None:
    clock = StampClock()
    clock.look()
    assert clock.place(host.wall + 5) == 1000.0
