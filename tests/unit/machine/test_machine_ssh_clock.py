# SPDX-License-Identifier: Apache-2.0
"""Waits for the guest's words take their time, whatever becomes of the host's clock."""

import threading
import time

import pytest
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout

from harness.machine import ssh


def test_a_clock_set_back_makes_no_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ssh  # it is what changes paramiko's clock
    steps = iter(range(0, -(10**9), -3600))
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(steps))
    pipe, timed_out = BufferedPipe(), threading.Event()

    def read() -> None:
        try:
            pipe.read(1, timeout=0.1)
        except PipeTimeout:
            timed_out.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    in_time = timed_out.wait(5.0)
    pipe.close()
    thread.join(5.0)
    assert in_time
