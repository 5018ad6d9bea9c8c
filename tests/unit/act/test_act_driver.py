# SPDX-License-Identifier: Apache-2.0
"""`unbind` and `bind`: the balloon driver and its device."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.driver import DRIVER, DRIVER_SECONDS, Bind, Unbind
from harness.errors import DeadlineError, GuestError, GuestStuckError
from harness.record.events import DriverChanged


@pytest.mark.parametrize(
    ("verb", "does", "then"),
    [
        (Unbind, f"> {DRIVER}/unbind", f"&& [ ! -e {DRIVER}/$device ]"),
        (Bind, f"> {DRIVER}/bind", f"&& [ -e {DRIVER}/$device ]"),
    ],
)
def test_it_writes_to_the_driver_and_sees_that_it_is_done(
    guest: FakeGuest, verb: type[Unbind | Bind], does: str, then: str
) -> None:
    verb().perform(guest)
    (command,) = guest.vm.commands
    assert does in command
    assert command.endswith(then)
    assert guest.vm.timeouts == [DRIVER_SECONDS]
    assert [event.bound for event in guest.recorded(DriverChanged)] == [verb is Bind]


@pytest.mark.parametrize("verb", [Unbind, Bind])
def test_a_guest_that_refuses_is_an_error(guest: FakeGuest, verb: type[Unbind | Bind]) -> None:
    guest.vm.says["virtio_balloon"] = 1
    with pytest.raises(GuestError):
        verb().perform(guest)
    assert not guest.recorded(DriverChanged)


@pytest.mark.parametrize(("verb", "what"), [(Unbind, "unbind"), (Bind, "bind")])
def test_a_kernel_that_does_not_come_back_from_it_is_stuck(
    guest: FakeGuest, verb: type[Unbind | Bind], what: str
) -> None:
    guest.vm.says["virtio_balloon"] = DeadlineError("no answer")
    with pytest.raises(GuestStuckError, match=f"did not {what} the balloon driver within 30 s"):
        verb().perform(guest)
