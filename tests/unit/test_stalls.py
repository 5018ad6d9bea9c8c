# SPDX-License-Identifier: Apache-2.0
"""Deadlines do not count the time in which the harness itself was stopped."""

import os
import threading

import pytest

from harness import deadline as subject
from harness import stalls
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


def test_a_process_that_may_have_no_thread_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all the time since would seem lost, and no deadline would ever pass."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("harness.stalls._pulse", None)
    monkeypatch.setattr("threading.Thread.start", refused)
    assert stalls.lost_seconds() == 0.0
    monkeypatch.undo()
    assert stalls.lost_seconds() == 0.0


def test_a_forked_process_counts_anew() -> None:
    """It has no thread that beats."""
    stalls.lost_seconds()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"1" if stalls._pulse is None else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)
