# SPDX-License-Identifier: Apache-2.0
"""Save the guest's memory to its disk, reset the machine, and let the guest come back from it."""

import contextlib
from typing import ClassVar

from harness.act.guest import Guest
from harness.act.seen_pages import SeenPages
from harness.act.verbs.churn import Held
from harness.deadline import Deadline
from harness.errors import (
    DeadlineError,
    GuestError,
    GuestStuckError,
    PreconditionError,
    ScenarioError,
    SshError,
)
from harness.machine.kernel_log import HEAR_ALL, HEAR_AS_BEFORE
from harness.machine.reset import READY_LINE
from harness.record.events import Suspended
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb

RESUME_WORD = "fpr.resume"
"""On the kernel command line: init resumes from the disk (guest-images/init.c)."""

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 3.0
PAUSE_SECONDS = 0.2
"""Time for the command's SSH answer before the guest goes."""

_BACK = "hibernation exit"
"""What the kernel that comes back prints (hibernate(), kernel/power/hibernate.c)."""

_REFUSED = "fpr-hibernate: refused"

# The image goes to swap; then the machine is reset, and the kernel that boots reads it back.
_PREPARE = """
set -e
grep -qw disk /sys/power/state || exit 9
modprobe virtio_blk
grep -q ^/dev/vda /proc/swaps || { mkswap /dev/vda && swapon /dev/vda; } >/dev/null
echo reboot >/sys/power/disk
"""
_NO_HIBERNATION = 9
_GO = f"""
(
  sleep {PAUSE_SECONDS}
  {HEAR_ALL}
  echo disk >/sys/power/state || echo {_REFUSED} >/dev/console
  {HEAR_AS_BEFORE}
) >/dev/null 2>&1 &
"""


class Hibernate(Verb):
    """Hibernates the guest (S4): its memory goes to its disk, the machine is reset, and the kernel
    that boots puts the memory back. It needs `guest.disk`, about as large as the memory, and
    `fpr.resume` in `guest.cmdline`. If the guest's kernel cannot hibernate, the run is a SKIP.
    """

    verb: ClassVar[str] = "hibernate"
    real_clock: ClassVar[str] = (
        "the guest must go before its next pass, which it may reach at any moment"
    )
    moves_memory: ClassVar[bool] = True
    breaks_connection: ClassVar[bool] = True
    deadline: Seconds = 300.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    def expected_seconds(self, memory: int) -> float:
        """Estimate the time to write and read the image, and of a boot."""
        return 10.0 + memory / (1 << 24)

    def perform(self, guest: Guest) -> None:
        """Hibernate, and go on with the guest that comes back.

        Raises `ScenarioError` if it has no disk to come back from, `PreconditionError` if its
        kernel cannot hibernate, `GuestError` if it does not keep or find its image,
        `GuestStuckError`, and what the instruments raise.
        """
        guest.phase("hibernate")
        vm, start = guest.vm, guest.record.now()
        if not (vm.spec.disk and RESUME_WORD in vm.spec.cmdline.split()):
            raise ScenarioError(
                "the guest has no disk to hibernate to, or would not come back from it",
                hint=f"set guest.disk to the size of its memory and guest.cmdline to {RESUME_WORD}",
            )
        prepared = vm.shell.run(_PREPARE, check=False)
        if prepared.status == _NO_HIBERNATION:
            raise PreconditionError(
                f"the guest's kernel ({vm.kernel_release}) cannot hibernate (CONFIG_HIBERNATION)"
            )
        if prepared.status:
            raise GuestError(
                "the guest cannot use its disk for hibernation: "
                + prepared.stderr.decode(errors="replace").strip()
            )
        deadline = Deadline(
            self.deadline * vm.pace, "the guest to hibernate and come back", GuestStuckError
        )
        seen = len(vm.monitor.events())
        vm.monitor.execute("set-action", {"reboot": "reset"})
        _leave_and_return(guest, deadline)
        vm.monitor.execute("set-action", {"reboot": "shutdown"})
        slept = any(event["event"] == "RESET" for event in vm.monitor.events()[seen:])
        vm.arrive(deadline)
        guest.reopen_instruments()
        guest.kept(SeenPages).begin(guest.instruments)
        if (tool := guest.kept(Held).tool) is not None:
            tool.attach(vm.shell)
        now = guest.record.now()
        guest.record.add(Suspended(now, "disk", now - start, slept))
        guest.read_console()


def _leave_and_return(guest: Guest, deadline: Deadline) -> None:
    """Give the order, and wait until the kernel that was saved runs again."""
    console = guest.vm.console
    back, boots = console.count(_BACK), console.count(READY_LINE)
    # A busy host may bring the command's answer only after the guest has gone.
    with contextlib.suppress(SshError, DeadlineError):
        guest.vm.shell.run(_GO, timeout=ANSWER_SECONDS)
    while console.count(_BACK) <= back:
        deadline.check()
        if console.count(READY_LINE) > boots:
            raise GuestError(
                "the guest hibernated, but the kernel that booted did not find its image",
                hint="console.log shows why",
            )
        if console.count(_REFUSED):
            raise GuestError(
                "the guest refused to hibernate",
                hint="console.log shows why; the disk must hold what is in use",
            )
        guest.vm.sleep_alive(LOOK_SECONDS)
