# SPDX-License-Identifier: Apache-2.0
"""What the host was seen to hold while a guest booted, which nobody can ask yet."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_guest import FakeGuest
from fake_instruments import FakeInstruments

from harness.act.seen_pages import SeenPages
from harness.errors import ObserveError
from harness.kernel.pages import HostState, Seen
from harness.observe import boot_residency as subject
from harness.observe.boot_residency import BootLooks, BootResidency
from harness.observe.instruments import Instruments

A, R, S, Z = HostState.ABSENT, HostState.RESIDENT, HostState.SWAPPED, HostState.ZERO
DEADLINE = 10.0


def booting(*looks: tuple[HostState, ...]) -> tuple[FakeInstruments, BootResidency]:
    host = FakeInstruments(len(looks[0]))
    seen = BootResidency(host.opened())
    for states in looks:
        host.host = np.array(states, np.uint8)
        seen.look()
    return host, seen


def test_what_any_look_saw_counts() -> None:
    host, seen = booting((A, R, S, Z), (R, A, A, A))
    assert list(seen.held_for(host.opened())) == [True, True, True, False]


def test_what_was_discarded_since_does_not() -> None:
    host, seen = booting((R, R, R))
    host.discarded_at[1] = host.marks
    host.host[:] = A
    seen.look()
    host.discarded_at[2] = host.marks
    assert list(seen.held_for(host.opened())) == [True, False, False]


def test_memory_that_lies_elsewhere_meanwhile_cannot_be_compared() -> None:
    _, seen = booting((R, R))
    with pytest.raises(ObserveError, match="lies elsewhere"):
        seen.held_for(FakeInstruments(3).opened())


def test_the_first_audit_knows_of_it(guest: FakeGuest) -> None:
    seen = BootResidency(guest.instruments)
    seen.look()
    guest.host.host[0] = A
    pages = guest.kept(SeenPages)
    pages.begin(guest.instruments, seen)
    assert pages.seen is not None
    assert set(pages.seen) == {Seen.ON_HOST}
    pages.begin(guest.instruments)
    assert pages.seen[0] == Seen.NOTHING


def test_it_looks_until_the_guest_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    host, looked = FakeInstruments(2), threading.Semaphore(0)
    monkeypatch.setattr(subject, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(Instruments, "open", lambda _vm: opened(host, looked))
    looks = BootLooks()
    with looks.watching(vm()):
        assert looked.acquire(timeout=DEADLINE)
        assert looked.acquire(timeout=DEADLINE)
    assert looks.taken() is not None
    assert "boot-looks" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("error", [ObserveError("QEMU has ended"), ValueError("a defect of ours")])
@pytest.mark.parametrize("at", ["open", "look"])
def test_a_qemu_that_cannot_be_looked_at_boots_and_then_it_is_told(
    monkeypatch: pytest.MonkeyPatch, at: str, error: Exception
) -> None:
    """A guest that does not boot has more to say than that; one that boots was not looked at."""

    def refuse(_vm: object = None) -> Any:
        raise error

    instruments = FakeInstruments(2).opened()
    monkeypatch.setattr(instruments.residency, "read", refuse)
    monkeypatch.setattr(Instruments, "open", refuse if at == "open" else lambda _vm: instruments)
    looks = BootLooks()
    with looks.watching(vm()):
        pass
    with pytest.raises(type(error), match=str(error)):
        looks.taken()


def test_what_was_not_watched_was_not_looked_at() -> None:
    assert BootLooks().taken() is None


def opened(host: FakeInstruments, looked: threading.Semaphore) -> Instruments:
    instruments = host.opened()
    read = instruments.residency.read

    def count() -> Any:
        looked.release()
        return read()

    instruments.residency.read = count  # type: ignore[method-assign]
    return instruments


def vm() -> Any:
    return Path("a VM, which the instruments are faked for")
