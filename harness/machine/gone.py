# SPDX-License-Identifier: Apache-2.0
"""How whoever talks to a QEMU learns that it is no longer there."""

import contextlib
from collections.abc import Callable

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError

Gone = Callable[[], HarnessError | None]
"""Why QEMU is no longer there, or None while it runs."""

NOTICE_SECONDS = 1.0


def gone_soon(gone: Gone) -> HarnessError | None:
    """QEMU's end, if a connection that broke was its first sign.

    A dying QEMU closes its sockets a little before its process can be waited for.
    """
    with contextlib.suppress(DeadlineError):
        return wait_for(gone, Deadline(NOTICE_SECONDS, "QEMU's end"))
    return None
