# SPDX-License-Identifier: Apache-2.0
"""Suspend the guest, wake it, and check that it resumed."""

import contextlib
import re
from typing import ClassVar, Literal

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.errors import DeadlineError, GuestError, PreconditionError, SshError
from harness.machine.kernel_log import HEAR_ALL, HEAR_AS_BEFORE
from harness.record.events import Suspended
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb

RTC_SECONDS = 2
"""How long the guest sleeps until its real-time clock wakes it."""

PAUSE_SECONDS = 0.2
"""Time for the command's SSH answer before the guest sleeps."""

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 3.0
"""Timeout of one attempt to reach a guest that may still sleep."""

STILL_LOOKS = 5
"""Consecutive looks that must find every CPU halted before the guest counts as asleep."""

_ENTRY = "PM: suspend entry (s2idle)"
_HALTED = re.compile(r"\bHLT=([01])\b")
_SLEEPS = "/sys/power/suspend_stats/success"
_WAKE_ALARM = "/sys/class/rtc/rtc0/wakealarm"

# `button` is the power button's driver.
_SLEEP = f"""
modprobe button
rm -f /run/woke
[ ! -w /sys/power/mem_sleep ] || echo deep >/sys/power/mem_sleep
(
  sleep {PAUSE_SECONDS}
  {HEAR_ALL}
  {{alarm}} && echo {{state}} >/sys/power/state
  echo $? >/run/woke
  {HEAR_AS_BEFORE}
) >/dev/null 2>&1 &
"""


class Suspend(Verb):
    """Suspends the guest once, and wakes it. If its kernel does not offer this sleep state, the run
    is a SKIP.
    """

    verb: ClassVar[str] = "suspend"
    real_clock: ClassVar[str] = "the host wakes the guest in its own time"
    moves_memory: ClassVar[bool] = True
    state: Literal["mem", "freeze"]
    """Sleep state: `mem` is S3, `freeze` is s2idle (Documentation/admin-guide/pm/sleep-states.rst).
    """
    wake: Literal["qmp", "rtc"] = "qmp"
    """Who wakes the guest: QEMU (`qmp`), or the guest's real-time clock (`rtc`)."""
    deadline: Seconds = 60.0
    """Deadline for sleeping and waking together. If it passes, the run is a MISS, or `guest-hang`
    if the guest no longer answers."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time, in which the guest sleeps for two seconds."""
        return 4.0

    def perform(self, guest: Guest) -> None:
        """Suspend and wake the guest.

        Raises `PreconditionError` if the kernel lacks the sleep state, `GuestError` if it refuses
        to sleep, `DeadlineError` if it does not sleep or does not resume in time.
        """
        guest.phase("suspend", f"{self.state}, woken by {self.wake}")
        shell = guest.vm.shell
        deadline = Deadline(
            self.deadline * guest.vm.pace, f"the guest to sleep ({self.state}) and to wake"
        )
        start = guest.record.now()
        before = shell.run(f"cat /sys/power/state {_SLEEPS}").stdout.decode().split()
        if self.state not in before[:-1]:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) has no sleep state "
                f"{self.state!r}, only: {' '.join(before[:-1])}"
            )
        seen = len(guest.vm.monitor.events())
        entries = guest.vm.console.count(_ENTRY)
        alarm = f"echo 0 >{_WAKE_ALARM}; echo +{RTC_SECONDS} >{_WAKE_ALARM}"
        sleep = _SLEEP.format(alarm=alarm if self.wake == "rtc" else ":", state=self.state)
        # A busy host may bring the command's answer only after the guest has fallen asleep.
        with contextlib.suppress(DeadlineError):
            shell.run(sleep, timeout=ANSWER_SECONDS)
        if self.wake == "qmp":
            if self.state == "mem":
                _wake_deep(guest, seen, deadline)
            else:
                _wake_idle(guest, entries, deadline)
        while (status := _status(guest)) is None:
            if self.state == "freeze" and self.wake == "qmp":
                guest.vm.monitor.execute("system_powerdown")
            deadline.check()
        if status:
            raise GuestError(f"the guest refused to sleep: writing {self.state!r} gave {status}")
        after = guest.vm.shell.run(f"cat {_SLEEPS}").stdout.decode().split()
        slept = int(after[-1]) > int(before[-1])
        guest.record.add(
            Suspended(guest.record.now(), self.state, guest.record.now() - start, slept)
        )
        guest.read_console()


def _wake_deep(guest: Guest, seen: int, deadline: Deadline) -> None:
    """Wake a guest from S3 once QEMU says that it is suspended; return if it refused to sleep."""
    asked = guest.record.now()
    while not any(event["event"] == "SUSPEND" for event in guest.vm.monitor.events()[seen:]):
        deadline.check()
        if guest.record.now() - asked > ANSWER_SECONDS and _status(guest) is not None:
            return
        guest.vm.sleep_alive(LOOK_SECONDS)
    guest.vm.monitor.execute("system_wakeup")


def _wake_idle(guest: Guest, entries: int, deadline: Deadline) -> None:
    """Wake a guest from s2idle with the power button, once all its CPUs are halted.

    QEMU cannot tell s2idle from an idle guest, and a button pressed too early aborts the sleep.
    """
    still = 0
    while still < STILL_LOOKS:
        deadline.check("the guest's CPUs still work")
        guest.vm.sleep_alive(LOOK_SECONDS)
        entered = guest.vm.console.count(_ENTRY) > entries
        halted = _HALTED.findall(guest.vm.monitor.human("info registers -a"))
        still = still + 1 if entered and set(halted) == {"1"} else 0
    guest.vm.monitor.execute("system_powerdown")


def _status(guest: Guest) -> int | None:
    """Return the status of the write that suspends; None if it has not ended, or on no answer."""
    guest.vm.sleep_alive(LOOK_SECONDS)
    guest.read_console()
    try:
        answer = guest.vm.shell.run("cat /run/woke", timeout=ANSWER_SECONDS, check=False)
    except (SshError, DeadlineError):
        return None
    text = answer.stdout.decode(errors="replace").strip()
    return int(text) if answer.status == 0 and text.isdecimal() else None
