# SPDX-License-Identifier: Apache-2.0
"""`suspend`: a sleep, who ends it, and a guest that will not."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.suspend import ANSWER_SECONDS, STILL_LOOKS, Suspend
from harness.errors import DeadlineError, GuestError, PreconditionError, SshError
from harness.machine.kernel_log import HEAR_ALL
from harness.record.events import Suspended

SUSPEND = {"event": "SUSPEND"}
HALTED, AT_WORK = "HLT=1 HLT=1", "HLT=1 HLT=0"


def sleeper(guest: FakeGuest, *, woke: Any = "0\n", sleeps: tuple[int, int] = (4, 5)) -> None:
    """A guest that knows both sleeps; `woke`: what reading the status of the write gives."""
    guest.vm.says["cat /sys/power/state"] = f"freeze mem\n{sleeps[0]}\n"
    guest.vm.says["cat /run/woke"] = woke
    guest.vm.says["cat /sys/power/suspend_stats"] = f"{sleeps[1]}\n"


def suspend(guest: FakeGuest, **fields: object) -> None:
    Suspend.model_validate(fields).perform(guest)


def falls_asleep(guest: FakeGuest, *, after: int) -> Callable[[str], str]:
    """The CPUs' registers: at work, and then halted."""
    looks = 0

    def registers(_question: str) -> str:
        nonlocal looks
        looks += 1
        if looks == after:
            guest.vm.prints.append("PM: suspend entry (s2idle)")
        return HALTED if looks >= after else AT_WORK

    return registers


def woken(guest: FakeGuest) -> list[str]:
    return [name for name, _asked in guest.vm.asked if name.startswith("system_")]


def test_qemu_wakes_a_guest_once_it_is_in_s3(guest: FakeGuest) -> None:
    sleeper(guest)
    guest.vm.meanwhile = lambda: guest.vm.happened.append(SUSPEND)
    suspend(guest, state="mem")
    assert woken(guest) == ["system_wakeup"]
    assert "echo mem >/sys/power/state" in guest.vm.commands[1]
    # What it waits for on the console of an idle sleep is KERN_INFO, which `quiet` hides.
    louder, slept = HEAR_ALL, "echo mem >/sys/power/state"
    assert guest.vm.commands[1].index(louder) < guest.vm.commands[1].index(slept)
    (event,) = guest.recorded(Suspended)
    assert (event.state, event.slept) == ("mem", True)


def test_an_older_sleep_does_not_count(guest: FakeGuest) -> None:
    sleeper(guest, woke="")
    guest.vm.happened.append(SUSPEND)
    with pytest.raises(DeadlineError, match=r"the guest to sleep \(mem\) and to wake"):
        suspend(guest, state="mem", deadline="5s")
    assert woken(guest) == []


def test_the_power_button_wakes_a_guest_whose_cpus_are_all_halted(guest: FakeGuest) -> None:
    sleeper(guest)
    guest.vm.qmp["info registers"] = falls_asleep(guest, after=3)
    suspend(guest, state="freeze")
    looks = [name for name, _asked in guest.vm.asked if name == "info registers -a"]
    assert len(looks) == 3 + STILL_LOOKS, "the third look was before its word on the console"
    assert woken(guest) == ["system_powerdown"]


def test_halted_cpus_before_the_sleep_are_only_idle(guest: FakeGuest) -> None:
    """Pressed too early the button aborts the sleep."""
    sleeper(guest)
    guest.vm.qmp["info registers"] = HALTED
    with pytest.raises(DeadlineError, match="the guest's CPUs still work"):
        suspend(guest, state="freeze", deadline="5s")
    assert woken(guest) == []


def test_a_guest_in_s2idle_may_need_the_button_again(guest: FakeGuest) -> None:
    sleeper(guest, woke=["", SshError("no answer"), "0\n"])
    guest.vm.qmp["info registers"] = falls_asleep(guest, after=1)
    suspend(guest, state="freeze")
    assert woken(guest) == 3 * ["system_powerdown"]


@pytest.mark.parametrize("state", ["mem", "freeze"])
def test_the_guests_own_clock_can_wake_it(guest: FakeGuest, state: str) -> None:
    sleeper(guest, woke=["", "0\n"])
    suspend(guest, state=state, wake="rtc")
    assert "wakealarm" in guest.vm.commands[1]
    assert woken(guest) == []
    assert guest.recorded(Suspended)[0].seconds >= 0.2


@pytest.mark.parametrize("state", ["mem", "freeze"])
def test_a_guest_that_sleeps_before_it_has_answered_is_woken_all_the_same(
    guest: FakeGuest, state: str
) -> None:
    """On a busy host the command's answer is under way when the guest falls asleep."""
    sleeper(guest)
    guest.vm.says["modprobe button"] = DeadlineError("waited for the command to end")
    guest.vm.meanwhile = lambda: guest.vm.happened.append(SUSPEND)
    guest.vm.qmp["info registers"] = falls_asleep(guest, after=1)
    suspend(guest, state=state)
    assert guest.recorded(Suspended)[0].slept


def test_a_kernel_without_such_a_sleep_is_a_skip(guest: FakeGuest) -> None:
    guest.vm.says["cat /sys/power/state"] = "freeze\n0\n"
    with pytest.raises(PreconditionError, match="has no sleep state 'mem', only: freeze"):
        suspend(guest, state="mem")
    assert len(guest.vm.commands) == 1


def test_a_guest_that_refuses_is_an_error_and_not_waited_for(guest: FakeGuest) -> None:
    sleeper(guest, woke="1\n")
    with pytest.raises(GuestError, match="refused to sleep: writing 'mem' gave 1"):
        suspend(guest, state="mem")
    assert ANSWER_SECONDS < guest.record.now() < ANSWER_SECONDS + 1.0
    assert not guest.recorded(Suspended)


def test_a_sleep_that_was_aborted_is_recorded_as_none(guest: FakeGuest) -> None:
    sleeper(guest, sleeps=(4, 4))
    suspend(guest, state="mem", wake="rtc")
    assert guest.recorded(Suspended)[0].slept is False


def test_a_guest_that_does_not_come_back_is_a_deadline(guest: FakeGuest) -> None:
    sleeper(guest, woke=SshError("no answer"))
    with pytest.raises(DeadlineError):
        suspend(guest, state="freeze", wake="rtc", deadline="5s")
    assert 5.0 <= guest.record.now() < 6.0
