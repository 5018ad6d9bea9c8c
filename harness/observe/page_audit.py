# SPDX-License-Identifier: Apache-2.0
"""Reads the state of every page in the guest and on the host.

The two cannot be read at the same moment, so the guest is read before and after the host: only
pages whose guest state is the same in both readings can be judged.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from harness.guest.page_stream import PageReader, PageReading
from harness.kernel.pages import GuestState, HostState, StateArray
from harness.machine.interfaces import GuestShell
from harness.observe.instruments import ResidencyReader
from harness.record.audit_file import AuditReading

_Accounts = TypeVar("_Accounts")


class StateReader(Protocol):
    """Reads the guest's state of every page."""

    def read(self) -> PageReading:
        """Read once more. Raises `ObserveError`, `SshError`, `DeadlineError`."""


def take_audit(
    shell: GuestShell,
    residency: ResidencyReader,
    accounts: Callable[[], _Accounts],
    held_by: Sequence[int] = (),
) -> tuple[AuditReading, _Accounts]:
    """Read the guest, the host, and the guest again.

    `accounts`: reads what is to be compared with the host's pages. It is called directly after they
    were read, before a pass can move much.
    `held_by`: guest process ids whose pages read HELD.

    Raises ObserveError, GuestError, SshError, DeadlineError.
    """
    taken: list[_Accounts] = []

    def host() -> StateArray:
        states = residency.read()
        taken.append(accounts())
        return states

    with PageReader(shell, residency.layout.pfn_end, held_by) as reader:
        return read_both_sides(reader, host), taken[0]


def read_both_sides(reader: StateReader, read_host: Callable[[], StateArray]) -> AuditReading:
    """Read the guest, the host, and the guest again. Raises what the readers raise."""
    before = reader.read()
    start = time.monotonic()
    host = read_host()
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
        guest_at=before.start_ns / 1e9,
    )


def _extend(states: StateArray, length: int, fill: int) -> StateArray:
    return np.pad(states, (0, length - len(states)), constant_values=fill)
