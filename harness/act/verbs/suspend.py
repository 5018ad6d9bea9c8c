# SPDX-License-Identifier: Apache-2.0
"""Suspend the guest, wake it, and see that it is back."""

import re
from typing import ClassVar, Literal

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.errors import DeadlineError, GuestError, PreconditionError, SshError
from harness.record.events import Suspended
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb

RTC_SECONDS = 2
"""How long the guest sleeps when its clock wakes it."""

PAUSE_SECONDS = 0.2
"""For the guest to say that it will sleep, before it does."""

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 3.0
"""For one attempt to hear from a guest that may still sleep."""

STILL_LOOKS = 5
"""So many looks in a row find every CPU halted in a guest that sleeps."""

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
  {{alarm}} && echo {{state}} >/sys/power/state
  echo $? >/run/woke
) >/dev/null 2>&1 &
"""


class Suspend(Verb):
    """Suspends the guest once, and wakes it. If its kernel does not offer this sleep, the run is a
    SKIP.
    """

    verb: ClassVar[str] = "suspend"
    moves_memory: ClassVar[bool] = True
    state: Literal["mem", "freeze"]
    """`mem` is S3, `freeze` is s2idle (Documentation/admin-guide/pm/sleep-states.rst)."""
    wake: Literal["qmp", "rtc"] = "qmp"
    """QEMU wakes it (`qmp`), or the guest's own clock does (`rtc`)."""
    deadline: Seconds = 60.0
    """For sleeping and waking together. If it passes, the run is a MISS, or `guest-hang` if the
    guest no longer answers."""

    def expected_seconds(self, _memory: int) -> float:
        """The guest sleeps for two seconds."""
        return 4.0

    def perform(self, guest: Guest) -> None:
        """Raises `PreconditionError` if the guest knows no such sleep, `GuestError` if it refuses,
        `DeadlineError` if it does not sleep or does not come back.
        """
        guest.phase("suspend", f"{self.state}, woken by {self.wake}")
        shell = guest.vm.shell
        deadline = Deadline(self.deadline, f"the guest to sleep ({self.state}) and to wake")
        start = guest.record.now()
        before = shell.run(f"cat /sys/power/state {_SLEEPS}").stdout.decode().split()
        if self.state not in before[:-1]:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) offers no sleep {self.state!r}, "
                f"only: {' '.join(before[:-1])}"
            )
        seen = len(guest.vm.monitor.events())
        entries = guest.vm.console.count(_ENTRY)
        alarm = f"echo 0 >{_WAKE_ALARM}; echo +{RTC_SECONDS} >{_WAKE_ALARM}"
        shell.run(_SLEEP.format(alarm=alarm if self.wake == "rtc" else ":", state=self.state))
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
    """QEMU knows when a guest is in S3. One that refuses to sleep says so itself."""
    asked = guest.record.now()
    while not any(event["event"] == "SUSPEND" for event in guest.vm.monitor.events()[seen:]):
        deadline.check()
        if guest.record.now() - asked > ANSWER_SECONDS and _status(guest) is not None:
            return
        guest.vm.sleep_alive(LOOK_SECONDS)
    guest.vm.monitor.execute("system_wakeup")


def _wake_idle(guest: Guest, entries: int, deadline: Deadline) -> None:
    """A guest in s2idle runs as far as QEMU can see. The power button wakes it, by its driver;
    pressed too early it aborts the sleep.
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
    """The status of the write that suspended; None while there is none, or no answer."""
    guest.vm.sleep_alive(LOOK_SECONDS)
    guest.read_console()
    try:
        answer = guest.vm.shell.run("cat /run/woke", timeout=ANSWER_SECONDS, check=False)
    except (SshError, DeadlineError):
        return None
    text = answer.stdout.decode(errors="replace").strip()
    return int(text) if answer.status == 0 and text.isdecimal() else None
