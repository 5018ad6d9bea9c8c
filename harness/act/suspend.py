# SPDX-License-Identifier: Apache-2.0
"""Suspend the guest, wake it, and see that it is back."""

import re

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import DeadlineError, GuestError, PreconditionError, SshError
from harness.record.events import Suspended
from harness.scenario.steps import SuspendStep

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


def suspend(session: GuestSession, step: SuspendStep) -> None:
    """One sleep. Raises `PreconditionError` if the guest knows no such sleep, `GuestError` if it
    refuses, `DeadlineError` if it does not sleep or does not come back.
    """
    session.phase("suspend", f"{step.state}, woken by {step.wake}")
    shell = session.vm.shell
    deadline = Deadline(step.deadline, f"the guest to sleep ({step.state}) and to wake")
    start = session.record.now()
    before = shell.run(f"cat /sys/power/state {_SLEEPS}").stdout.decode().split()
    if step.state not in before[:-1]:
        raise PreconditionError(
            f"the guest's kernel ({session.vm.kernel_release}) offers no sleep {step.state!r}, "
            f"only: {' '.join(before[:-1])}"
        )
    seen = len(session.vm.monitor.events())
    entries = session.vm.console.count(_ENTRY)
    alarm = f"echo 0 >{_WAKE_ALARM}; echo +{RTC_SECONDS} >{_WAKE_ALARM}"
    shell.run(_SLEEP.format(alarm=alarm if step.wake == "rtc" else ":", state=step.state))
    if step.wake == "qmp":
        if step.state == "mem":
            _wake_deep(session, seen, deadline)
        else:
            _wake_idle(session, entries, deadline)
    while (status := _status(session)) is None:
        if step.state == "freeze" and step.wake == "qmp":
            session.vm.monitor.execute("system_powerdown")
        deadline.check()
    if status:
        raise GuestError(f"the guest refused to sleep: writing {step.state!r} gave {status}")
    after = session.vm.shell.run(f"cat {_SLEEPS}").stdout.decode().split()
    slept = int(after[-1]) > int(before[-1])
    session.record.add(
        Suspended(session.record.now(), step.state, session.record.now() - start, slept)
    )
    session.read_console()


def _wake_deep(session: GuestSession, seen: int, deadline: Deadline) -> None:
    """QEMU knows when a guest is in S3. One that refuses to sleep says so itself."""
    asked = session.record.now()
    while not any(event["event"] == "SUSPEND" for event in session.vm.monitor.events()[seen:]):
        deadline.check()
        if session.record.now() - asked > ANSWER_SECONDS and _status(session) is not None:
            return
        session.vm.sleep_alive(LOOK_SECONDS)
    session.vm.monitor.execute("system_wakeup")


def _wake_idle(session: GuestSession, entries: int, deadline: Deadline) -> None:
    """A guest in s2idle runs as far as QEMU can see. The power button wakes it, by its driver;
    pressed too early it aborts the sleep.
    """
    still = 0
    while still < STILL_LOOKS:
        deadline.check("the guest's CPUs still work")
        session.vm.sleep_alive(LOOK_SECONDS)
        entered = session.vm.console.count(_ENTRY) > entries
        halted = _HALTED.findall(session.vm.monitor.human("info registers -a"))
        still = still + 1 if entered and set(halted) == {"1"} else 0
    session.vm.monitor.execute("system_powerdown")


def _status(session: GuestSession) -> int | None:
    """The status of the write that suspended; None while there is none, or no answer."""
    session.vm.sleep_alive(LOOK_SECONDS)
    session.read_console()
    try:
        answer = session.vm.shell.run("cat /run/woke", timeout=ANSWER_SECONDS, check=False)
    except (SshError, DeadlineError):
        return None
    text = answer.stdout.decode(errors="replace").strip()
    return int(text) if answer.status == 0 and text.isdecimal() else None
