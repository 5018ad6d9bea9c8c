# SPDX-License-Identifier: Apache-2.0
"""A look at every page from both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import numpy as np
import pytest
from guest_ram import GuestRamProcess

from harness.kernel.pages import GuestState, HostState, StateArray
from harness.machine.interfaces import GuestShell
from harness.observe import page_audit as audit_module
from harness.observe.mapping import HostMappingReader
from harness.observe.page_audit import take_audit
from harness.observe.residency import HostResidency
from harness.record.audit_file import AuditReading
from harness.record.facts import HostMapping
from harness.units import PAGE_SIZE

USED, FREE, NO_PAGE = int(GuestState.USED), int(GuestState.FREE), int(GuestState.NO_PAGE)


@dataclass(frozen=True)
class Reading:
    states: StateArray
    start_ns: int
    end_ns: int


class ScriptedGuest:
    """A page reader whose guest frees its pages between the first reading and the second, which
    each take 0.25 s by its clock; `child`'s memory goes with them."""

    def __init__(self, child: GuestRamProcess, length: int) -> None:
        self.child = child
        self.length = length
        self.readings = 0
        self.held_by: list[int] = []
        self.closed = False

    def __call__(self, _shell: GuestShell, pfn_end: int, held_by: Sequence[int] = ()) -> Self:
        assert pfn_end == self.child.layout.pfn_end
        self.held_by = list(held_by)
        return self

    def read(self) -> Reading:
        state = FREE if self.readings else USED
        self.readings += 1
        self.child.do(f"write(range(0, {100 * self.readings}))")
        start = self.readings * 10**9
        return Reading(np.full(self.length, state, dtype=np.uint8), start, start + 250_000_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed = True


def audit(child: GuestRamProcess, held_by: Sequence[int] = ()) -> tuple[AuditReading, HostMapping]:
    residency = HostResidency(child.pid, child.layout)
    mapping = HostMappingReader(child.pid, child.layout)
    return take_audit(cast(GuestShell, None), residency, mapping.read, held_by)


def test_the_guest_is_read_before_and_after_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with GuestRamProcess(2000, "small-pages") as child:
        guest = ScriptedGuest(child, length=3100)
        monkeypatch.setattr(audit_module, "PageReader", guest)
        reading, accounts = audit(child, held_by=[42])
    assert (guest.held_by, guest.readings, guest.closed) == ([42], 2, True)
    assert np.count_nonzero(reading.host == HostState.RESIDENT) == 100, "after the first only"
    assert accounts.rss == 100 * PAGE_SIZE, "as many as the pages show: nothing came between"
    assert (reading.before[:3100] == USED).all()
    assert (reading.after[:3100] == FREE).all()
    assert reading.guest_seconds == 0.5
    assert 0 < reading.host_seconds < 5


@pytest.mark.parametrize("guest_length", [2500, 3100])
def test_all_arrays_have_one_length(monkeypatch: pytest.MonkeyPatch, guest_length: int) -> None:
    """QEMU's layout ends at 3000 here."""
    with GuestRamProcess(2000, "small-pages") as child:
        monkeypatch.setattr(audit_module, "PageReader", ScriptedGuest(child, guest_length))
        reading, _ = audit(child)
    longest = max(guest_length, 3000)
    assert {len(reading.before), len(reading.host), len(reading.after)} == {longest}
    assert (reading.before[guest_length:] == NO_PAGE).all()
    assert (reading.host[3000:] == HostState.UNKNOWN).all()
