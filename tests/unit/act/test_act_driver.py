# SPDX-License-Identifier: Apache-2.0
"""`unbind` and `bind`: the balloon driver and its device."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.driver import DRIVER, DRIVER_SECONDS, NO_DEVICE, Bind, Unbind
from harness.errors import DeadlineError, GuestError, GuestStuckError
from harness.record.events import ConsoleFinding, DriverChanged


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


@pytest.mark.parametrize(("verb", "what"), [(Unbind, "unbind"), (Bind, "bind")])
def test_a_kernel_that_refuses_is_found_and_ends_the_run(
    guest: FakeGuest, verb: type[Unbind | Bind], what: str
) -> None:
    """Nothing in the scenario is wrong then: the finding makes the run a FAIL."""
    guest.vm.says["virtio_balloon"] = 1
    with pytest.raises(GuestError, match=f"refused to {what}"):
        verb().perform(guest)
    assert not guest.recorded(DriverChanged)
    (finding,) = guest.recorded(ConsoleFinding)
    assert (finding.severity, finding.on_console) == ("warning", False)
    assert f"refused to {what} the balloon driver" in finding.title


def test_a_guest_without_a_balloon_is_an_error_of_the_scenario(guest: FakeGuest) -> None:
    guest.vm.says["virtio_balloon"] = NO_DEVICE
    with pytest.raises(GuestError):
        Unbind().perform(guest)
    assert not guest.recorded(ConsoleFinding)


@pytest.mark.parametrize(("verb", "what"), [(Unbind, "unbind"), (Bind, "bind")])
def test_a_kernel_that_does_not_come_back_from_it_is_stuck(
    guest: FakeGuest, verb: type[Unbind | Bind], what: str
) -> None:
    guest.vm.says["virtio_balloon"] = DeadlineError("no answer")
    with pytest.raises(GuestStuckError, match=f"did not {what} the balloon driver within 30 s"):
        verb().perform(guest)
