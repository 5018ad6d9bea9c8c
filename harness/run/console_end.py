# SPDX-License-Identifier: Apache-2.0
"""The last look at a guest's console, after which nothing it has printed is unread.

The kernel's words reach the file late: a guest under load, or under emulation, prints behind its
own time. So the guest itself is asked to print a mark, and the console is read until it is there.
"""

import logging
import secrets

from harness.act.run_record import RunRecord
from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError, ObserveError, QemuGoneError
from harness.machine.vm import VirtualMachine
from harness.record.events import ConsoleFinding

MARK_SECONDS = 20.0
"""For the console to catch up: a serial port of 115200 baud takes 4 s for a report of 50 KiB."""

LOG = logging.getLogger(__name__)

# <2> is KERN_CRIT, which `quiet` lets through. A guest whose console shows less prints no mark.
_PRINT = "read level rest </proc/sys/kernel/printk && [ $level -gt 2 ] && echo '<2>{}' >/dev/kmsg"


def read_console_to_end(vm: VirtualMachine, record: RunRecord) -> None:
    """Record all findings of a guest that has done its last step.

    Raises `ObserveError` where the console does not show what the guest prints, or can't be read.
    """
    mark = f"fpr-harness: the end {secrets.token_hex(8)}"
    try:
        printed = vm.shell.run(_PRINT.format(mark), check=False).status == 0
    except HarnessError as error:
        # What it did last may have ended its connection. What has come by then is read.
        LOG.debug("the guest prints no mark: %s", error)
        printed = False
    record_findings(vm, record)
    if not printed:
        return
    try:
        wait_for(
            lambda: vm.console.count(mark) or None,
            Deadline(MARK_SECONDS, "the guest's last words to reach its console"),
            interval=0.05,
        )
    except DeadlineError as error:
        raise ObserveError(
            f"the guest's console does not show what its kernel prints: {error.message}",
            hint="see the end of console.log: is it flooded, or has the guest been given another "
            "console?",
            evidence=[vm.console.path],
        ) from error
    record_findings(vm, record)


def record_findings(vm: VirtualMachine, record: RunRecord) -> None:
    """Record what the console shows and was not recorded, up to its end so far."""
    for finding in vm.console.final_findings():
        record.add(ConsoleFinding(record.now(), finding.severity, finding.title, finding.text))


def record_reset(record: RunRecord, error: HarnessError) -> None:
    """A guest that resets itself without a word has crashed: record that, if nothing else has."""
    if isinstance(error, QemuGoneError) and error.guest_reset and not record.saw_a_crash:
        record.add(
            ConsoleFinding(record.now(), "crash", error.message, error.hint, on_console=False)
        )
