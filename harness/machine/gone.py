# SPDX-License-Identifier: Apache-2.0
"""Let connections to a QEMU find out that it has ended."""

import contextlib
from collections.abc import Callable

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError

Gone = Callable[[], HarnessError | None]
"""Returns why QEMU has ended, or None while it runs."""

NOTICE_SECONDS = 1.0


def gone_soon(gone: Gone) -> HarnessError | None:
    """Return why QEMU has ended, if that is why a connection broke; else None.

    A dying QEMU closes its sockets shortly before waitpid() sees its process end.
    """
    with contextlib.suppress(DeadlineError):
        return wait_for(gone, Deadline(NOTICE_SECONDS, "QEMU to end"))
    return None
