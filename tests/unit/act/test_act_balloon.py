# SPDX-License-Identifier: Apache-2.0
"""`balloon`: inflate or deflate, and wait for the guest."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.balloon import ResizeBalloon
from harness.errors import GuestStuckError
from harness.record.events import Ballooned
from harness.units import MIB


def sizes(guest: FakeGuest, *mib: int) -> None:
    """What QEMU says the guest has, one by one."""
    guest.vm.qmp["query-balloon"] = [{"actual": size * MIB} for size in mib]


def test_it_asks_once_and_waits_until_the_guest_has_so_much(guest: FakeGuest) -> None:
    sizes(guest, 256, 200, 128)
    ResizeBalloon.model_validate({"to": "50%"}).perform(guest)
    assert guest.vm.asked[0] == ("balloon", {"value": 128 * MIB})
    assert [name for name, _arguments in guest.vm.asked] == ["balloon", *3 * ["query-balloon"]]
    (event,) = guest.recorded(Ballooned)
    assert event.bytes == 128 * MIB
    assert event.seconds >= 0.1


def test_all_is_what_the_guest_booted_with(guest: FakeGuest) -> None:
    sizes(guest, 256)
    ResizeBalloon.model_validate({"to": "all"}).perform(guest)
    assert guest.vm.asked[0] == ("balloon", {"value": 256 * MIB})


def test_the_balloon_takes_whole_mib(guest: FakeGuest) -> None:
    sizes(guest, 85)
    ResizeBalloon.model_validate({"to": "33.3%"}).perform(guest)
    assert guest.vm.asked[0] == ("balloon", {"value": 85 * MIB})
    assert guest.recorded(Ballooned)[0].bytes == 85 * MIB


def test_a_guest_that_does_not_follow_is_stuck(guest: FakeGuest) -> None:
    sizes(guest, 200)
    step = ResizeBalloon.model_validate({"to": "50%", "deadline": "7s"})
    with pytest.raises(GuestStuckError, match=r"128MiB; last seen: the guest has 200MiB"):
        step.perform(guest)
    assert 7.0 <= guest.record.now() < 7.5
    assert not guest.recorded(Ballooned)


def test_a_guest_that_is_slow_as_a_whole_gets_longer(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under KVM in an emulated host the balloon grew by 77 MiB in a minute: no hang."""
    monkeypatch.setattr(guest.vm, "pace", 10.0)
    sizes(guest, *[200] * 300, 128)
    ResizeBalloon.model_validate({"to": "50%", "deadline": "7s"}).perform(guest)
    assert guest.recorded(Ballooned)[0].seconds > 7.0
