# SPDX-License-Identifier: Apache-2.0
"""`watch`: how soon the guest uses again what it has reported."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.watch import Watch
from harness.errors import ObserveError
from harness.kernel.pages import HostState
from harness.record.events import Measured
from harness.units import PAGE_SIZE


def measured(guest: FakeGuest) -> dict[str, float]:
    return {event.name: event.value for event in guest.recorded(Measured)}


def watch(guest: FakeGuest, duration: str) -> None:
    Watch.model_validate({"name": "seen", "duration": duration}).perform(guest)


def test_pages_that_are_resident_again_were_reused(guest: FakeGuest) -> None:
    start = guest.clock.seconds
    guest.host.host[:] = HostState.ABSENT
    guest.host.discarded = [[(start, 0, 8), (start, 100, 108)]]
    guest.host.host[:4] = HostState.RESIDENT
    watch(guest, "10s")
    found = measured(guest)
    assert found["seen_discarded_bytes"] == 16 * PAGE_SIZE
    assert found["seen_reused_1s_fraction"] == found["seen_reused_5s_fraction"] == 0.25
    assert "seen_reused_30s_fraction" not in found, "nobody watched so long"
    assert not guest.host.following


def test_a_qemu_that_traces_no_discards_cannot_be_watched(guest: FakeGuest) -> None:
    guest.host.untraced = "no such event"
    guest.reopen_instruments()
    with pytest.raises(ObserveError, match="no such event"):
        watch(guest, "1s")
    assert not measured(guest)


def test_a_page_discarded_twice_without_use_was_given_back_once(guest: FakeGuest) -> None:
    start = guest.clock.seconds
    guest.host.host[:] = HostState.ABSENT
    guest.host.discarded = [[(start, 0, 8)], [(start + 1, 0, 8)]]
    watch(guest, "3s")
    assert measured(guest)["seen_discarded_bytes"] == 8 * PAGE_SIZE


def test_its_time_counts_from_the_first_of_both(guest: FakeGuest) -> None:
    start = guest.clock.seconds
    guest.host.host[:] = HostState.ABSENT
    guest.host.discarded = [[(start, 0, 8)], [], [], [(start + 0.9, 0, 8)], []]

    def use_it_later() -> None:
        if guest.clock.seconds > start + 1.4:
            guest.host.host[:8] = HostState.RESIDENT

    guest.vm.meanwhile = use_it_later
    watch(guest, "10s")
    found = measured(guest)
    assert (found["seen_reused_1s_fraction"], found["seen_reused_5s_fraction"]) == (0.0, 1.0)


def test_a_page_used_in_between_was_given_back_twice(guest: FakeGuest) -> None:
    start = guest.clock.seconds
    guest.host.discarded = [[(start, 0, 8)], [(start + 0.3, 0, 8)]]
    watch(guest, "3s")
    found = measured(guest)
    assert found["seen_discarded_bytes"] == 16 * PAGE_SIZE
    assert found["seen_reused_1s_fraction"] == 1.0


def test_a_watch_that_saw_no_discard_has_no_fraction(guest: FakeGuest) -> None:
    watch(guest, "3s")
    assert measured(guest) == {"seen_discarded_bytes": 0}


def test_its_measures_are_those_it_announces(guest: FakeGuest) -> None:
    start = guest.clock.seconds
    guest.host.discarded = [[(start, 0, 8)]]
    step = Watch.model_validate({"name": "seen", "duration": "31s"})
    step.perform(guest)
    assert set(measured(guest)) == set(step.measured)


def test_a_host_that_cannot_be_read_is_no_reuse(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ObserveError("no pagemap")

    monkeypatch.setattr(guest.instruments.residency, "read", broken)
    with pytest.raises(ObserveError):
        watch(guest, "3s")
    assert measured(guest) == {}
