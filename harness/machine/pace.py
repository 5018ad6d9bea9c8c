# SPDX-License-Identifier: Apache-2.0
"""How slow this machine is, measured: a host that is itself emulated needs longer deadlines."""

import functools
import time

ROUNDS = 20_000
LOOKS = 7

USUAL_SECONDS = 0.004
"""What the work takes at most on a machine that one would run guests on: 1 ms on a desktop of 2024,
1.8 ms on a busy cloud machine of two cores."""

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
