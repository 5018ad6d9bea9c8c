# SPDX-License-Identifier: Apache-2.0
"""Measure how slow this host and its guests are; emulated ones need longer deadlines.

A piece of Python measures the host. The boot of a guest measures the guest.
"""

import functools
import time

ROUNDS = 20_000
LOOKS = 7

USUAL_SECONDS = 0.0015
"""Time that the work takes on a usual host. Measured: 1.8 ms on two busy cores in a cloud; 9.5 ms
in a host emulated there, on which a guest under KVM was ready in 36 to 42 s instead of 2 s."""

MOST = 30.0
"""The largest factor for deadlines; a slower host is not usable."""


@functools.cache
def slowness() -> float:
    """Return the factor for deadlines on this host: 1.0 on a usual one, at most `MOST`.

    It comes from the CPU time of a Python loop, so that other load does not count; the fastest of
    several measurements.
    """
    best = min(_work_seconds() for _ in range(LOOKS))
    return min(MOST, max(1.0, best / USUAL_SECONDS))


def guest_slowness(boot_seconds: float, usual_seconds: float) -> float:
    """By how much a guest's deadlines are to be longer, once it has become ready.

    Its boot is the best sample of the work that it is asked to do: instructions, exits, page
    faults, and the other guests that it shares the processors with.
    """
    return min(MOST, max(slowness(), boot_seconds / usual_seconds))


def _work_seconds() -> float:
    start = time.thread_time()
    total = 0
    for number in range(ROUNDS):
        total += number & 3
    return time.thread_time() - start
