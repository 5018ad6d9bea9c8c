# SPDX-License-Identifier: Apache-2.0
"""`hibernate`: the guest goes to its disk, and comes back over a new connection."""

from dataclasses import replace

import numpy as np
import pytest
from fake_guest import FakeGuest

from harness.act.seen_pages import SeenPages
from harness.act.verbs.hibernate import Hibernate
from harness.errors import (
    DeadlineError,
    GuestError,
    GuestStuckError,
    HarnessError,
    PreconditionError,
    ScenarioError,
    SshError,
)
from harness.kernel.pages import Seen
from harness.machine.kernel_log import HEAR_ALL
from harness.machine.reset import READY_LINE
from harness.record.events import Suspended
from harness.units import GIB


@pytest.fixture
def sleeper(guest: FakeGuest) -> FakeGuest:
    """A guest that has a disk to hibernate to."""
    guest.vm.spec = replace(guest.vm.spec, disk=GIB, cmdline="quiet fpr.resume")
    return guest


def comes_back(guest: FakeGuest) -> None:
    guest.vm.happened.append({"event": "RESET"})
    guest.vm.prints.append("PM: hibernation: hibernation exit")


def test_the_guest_comes_back_over_a_new_connection_and_its_pages_are_news(
    sleeper: FakeGuest,
) -> None:
    sleeper.kept(SeenPages).seen = np.full(4, Seen.RESIDENT, np.uint8)
    sleeper.vm.meanwhile = lambda: comes_back(sleeper)
    Hibernate().perform(sleeper)
    assert "swapon /dev/vda" in sleeper.vm.commands[0]
    assert "echo disk >/sys/power/state" in sleeper.vm.commands[1]
    assert HEAR_ALL in sleeper.vm.commands[1]
    assert sleeper.vm.arrived
    seen = sleeper.kept(SeenPages).seen
    assert seen is not None
    assert set(seen) == {Seen.ON_HOST}
    (event,) = sleeper.recorded(Suspended)
    assert (event.state, event.slept) == ("disk", True)
    assert [asked[1] for asked in sleeper.vm.asked] == [{"reboot": "reset"}, {"reboot": "shutdown"}]


@pytest.mark.parametrize("error", [DeadlineError("no answer"), SshError("it broke off")])
def test_a_guest_that_is_gone_before_it_answers_is_waited_for(
    sleeper: FakeGuest, error: HarnessError
) -> None:
    sleeper.vm.says["echo disk"] = error
    sleeper.vm.meanwhile = lambda: comes_back(sleeper)
    Hibernate().perform(sleeper)
    assert sleeper.recorded(Suspended)[0].slept


def test_a_hibernation_without_a_reset_is_none(sleeper: FakeGuest) -> None:
    """As when the kernel cannot write the image, and goes on."""
    sleeper.vm.meanwhile = lambda: sleeper.vm.prints.append("PM: hibernation: hibernation exit")
    Hibernate().perform(sleeper)
    assert sleeper.recorded(Suspended)[0].slept is False


@pytest.mark.parametrize(("disk", "cmdline"), [(0, "fpr.resume"), (GIB, "fpr.resumes")])
def test_a_guest_that_could_not_come_back_is_not_sent(
    guest: FakeGuest, disk: int, cmdline: str
) -> None:
    guest.vm.spec = replace(guest.vm.spec, disk=disk, cmdline=cmdline)
    with pytest.raises(ScenarioError, match="no disk to hibernate to"):
        Hibernate().perform(guest)
    assert guest.vm.commands == []


def test_a_kernel_without_hibernation_is_a_skip(sleeper: FakeGuest) -> None:
    sleeper.vm.says["mkswap"] = 9
    with pytest.raises(PreconditionError, match=r"\(6.1.0-test\) cannot hibernate"):
        Hibernate().perform(sleeper)


def test_a_disk_that_cannot_be_used_is_told(sleeper: FakeGuest) -> None:
    sleeper.vm.says["mkswap"] = 1
    with pytest.raises(GuestError, match="cannot use its disk for hibernation: its error"):
        Hibernate().perform(sleeper)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (READY_LINE, "did not find its image"),
        ("fpr-hibernate: refused", "refused to hibernate"),
    ],
)
def test_a_guest_that_is_not_the_old_one_is_told_at_once(
    sleeper: FakeGuest, seen: str, told: str
) -> None:
    sleeper.vm.meanwhile = lambda: sleeper.vm.prints.append(seen)
    with pytest.raises(GuestError, match=told):
        Hibernate().perform(sleeper)
    assert sleeper.record.now() < 1.0


def test_a_guest_that_does_not_come_back_hangs(sleeper: FakeGuest) -> None:
    with pytest.raises(GuestStuckError, match="to hibernate and come back"):
        Hibernate.model_validate({"deadline": "5s"}).perform(sleeper)
    assert not sleeper.recorded(Suspended)
