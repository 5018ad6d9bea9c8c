# SPDX-License-Identifier: Apache-2.0
"""How long work takes, for tests of what must be quick."""

import time
from collections.abc import Callable

TRIES = 3


def least_seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread for the best of some tries.

    While the other thread of its core is busy, a processor counts a third more.
    """
    tries = []
    for _ in range(TRIES):
        start = time.thread_time()
        work()
        tries.append(time.thread_time() - start)
    return min(tries)
