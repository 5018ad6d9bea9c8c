# SPDX-License-Identifier: Apache-2.0
"""Deadlines do not count the time in which the harness itself was stopped."""

import threading

import pytest

from harness import deadline as subject
from harness.deadline import Deadline
from harness.stalls import LEAST_SECONDS, PERIOD_SECONDS, Pulse, lost_seconds


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_lost_is_known_before_and_after_the_next_beat() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    for _beat in range(4):
        clock.now += PERIOD_SECONDS
        pulse.beat()
    assert pulse.lost == 0.0
    clock.now += PERIOD_SECONDS + 70.0
    assert pulse.lost == pytest.approx(70.0)
    pulse.beat()
    clock.now += PERIOD_SECONDS
    pulse.beat()
    assert pulse.lost == pytest.approx(70.0)


def test_a_busy_machine_has_lost_nothing() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now += PERIOD_SECONDS + 0.9 * LEAST_SECONDS
    assert pulse.lost == 0.0


def test_a_deadline_moves_on_by_what_is_lost_while_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job was stopped for 70 s, and its guest with it."""
    clock, lost = Clock(), [5.0]
    monkeypatch.setattr("time.monotonic", clock)
    monkeypatch.setattr(subject, "lost_seconds", lambda: lost[0])
    deadline = Deadline(60.0, "the balloon")
    clock.now += 80.0
    assert deadline.passed
    lost[0] += 70.0
    assert deadline.remaining == pytest.approx(50.0)
    clock.now += 50.0
    assert deadline.passed
    assert (
        "waited 60.0 s for the balloon; the harness itself was stopped for another 70.0 s"
        in str(deadline.error())
    )


def test_it_beats_from_the_first_question_on() -> None:
    assert lost_seconds() >= 0.0
    assert [each.daemon for each in threading.enumerate() if each.name == "pulse"] == [True]
