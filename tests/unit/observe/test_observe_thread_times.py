# SPDX-License-Identifier: Apache-2.0
"""The CPU times of a process's threads, by what QEMU says they are."""

import os
import threading
import time

import pytest

from harness.errors import ObserveError
from harness.observe.thread_times import ThreadTimes


def test_each_thread_counts_where_it_belongs_and_keeps_what_it_took() -> None:
    """This process stands for QEMU, a thread of it for a vCPU."""
    ids: list[int] = []
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        ids.append(threading.get_native_id())
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        begun.set()
        done.wait(10.0)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10.0)
    times = ThreadTimes(os.getpid(), frozenset(ids))
    first = times.read()
    assert first.vcpus >= 0.045
    assert first.main > 0
    done.set()
    thread.join()
    after = times.read()
    assert after.vcpus >= first.vcpus
    assert after.others >= 0


def test_a_process_that_ended_says_nothing() -> None:
    with pytest.raises(ObserveError, match="says nothing of the CPU time"):
        ThreadTimes(2**22 + 1, frozenset()).read()
