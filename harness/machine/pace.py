# SPDX-License-Identifier: Apache-2.0
"""How slow this machine is, measured: a host that is itself emulated needs longer deadlines."""

import functools
import time

ROUNDS = 20_000
LOOKS = 7

USUAL_SECONDS = 0.0015
"""What the work takes on a usual machine: 1.8 ms on two busy cores in a cloud. In a host that these
emulated it took 9.5 ms, and a guest under KVM there was ready in 36 to 42 s, not 2."""

MOST = 30.0
"""No deadline grows beyond so many times: what is slower still is not usable."""


@functools.cache
def slowness() -> float:
    """By how much deadlines are to be longer here: 1.0 on any usual machine, at most `MOST`.

    From a piece of Python, in seconds of processor time, so that other load does not count; the
    best of some looks.
    """
    best = min(_work_seconds() for _ in range(LOOKS))
    return min(MOST, max(1.0, best / USUAL_SECONDS))


def _work_seconds() -> float:
    start = time.thread_time()
    total = 0
    for number in range(ROUNDS):
        total += number & 3
    return time.thread_time() - start
