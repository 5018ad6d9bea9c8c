# SPDX-License-Identifier: Apache-2.0
"""A look at every page from both sides.

The two sides cannot be read at the same moment, hence the guest is read before and after the
host: only a page whose guest state is the same in both is worth a judgement.
"""

import time
from collections.abc import Sequence

import numpy as np

from harness.guest.page_stream import PageReader
from harness.kernel.pages import GuestState, HostState, StateArray
from harness.machine.interfaces import GuestShell
from harness.observe.instruments import ResidencyReader
from harness.record.audit_file import AuditReading


def take_audit(
    shell: GuestShell, residency: ResidencyReader, held_by: Sequence[int] = ()
) -> AuditReading:
    """Read guest, host, guest. Pages mapped by the guest processes `held_by` read HELD.

    Raises ObserveError, GuestError, SshError, DeadlineError.
    """
    with PageReader(shell, residency.layout.pfn_end, held_by) as reader:
        before = reader.read()
        start = time.monotonic()
        host = residency.read()
        host_seconds = time.monotonic() - start
        after = reader.read()
    nanoseconds = sum(reading.end_ns - reading.start_ns for reading in (before, after))
    length = max(len(before.states), len(host), len(after.states))
    return AuditReading(
        before=_extend(before.states, length, GuestState.NO_PAGE),
        host=_extend(host, length, HostState.UNKNOWN),
        after=_extend(after.states, length, GuestState.NO_PAGE),
        guest_seconds=nanoseconds / 1e9,
        host_seconds=host_seconds,
    )


def _extend(states: StateArray, length: int, fill: int) -> StateArray:
    return np.pad(states, (0, length - len(states)), constant_values=fill)
