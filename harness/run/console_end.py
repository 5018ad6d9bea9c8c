# SPDX-License-Identifier: Apache-2.0
"""Read a guest's console to the end of what its kernel has printed, and what it has not printed.

Kernel messages reach the file late: under load or emulation the serial console lags behind. The
guest is therefore asked to print a mark, and the console is read until the mark shows up. What the
guest keeps off its console (`quiet`) is in its kernel's log.
"""

import logging
import secrets

from harness.act.kernel_said import record_unprinted
from harness.act.run_record import RunRecord
from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, HarnessError, ObserveError, QemuGoneError
from harness.machine.vm import VirtualMachine
from harness.record.events import ConsoleFinding

MARK_SECONDS = 20.0
"""Seconds for the console to catch up; a report of 50 KiB takes 4 s at 115200 baud."""

LOG = logging.getLogger(__name__)

# <2> is KERN_CRIT, which `quiet` lets through. Below that console log level no mark is printed.
_PRINT = "read level rest </proc/sys/kernel/printk && [ $level -gt 2 ] && echo '<2>{}' >/dev/kmsg"


def read_console_to_end(vm: VirtualMachine, record: RunRecord, name: str = "") -> None:
    """Record all findings on the console of a guest that has done its last step.

    `name` is the prefix of their titles.

    Raises `ObserveError` if the console does not show what the guest prints, or cannot be read, and
    like `record_unprinted`.
    """
    mark = f"fpr-harness: the end {secrets.token_hex(8)}"
    try:
        printed = vm.shell.run(_PRINT.format(mark), check=False).status == 0
    except HarnessError as error:
        # The last step may have ended the connection. Read what has arrived so far.
        LOG.debug("the guest could not be asked to print a mark: %s", error)
        printed = False
    record_findings(vm, record, name)
    if not printed:
        record_unprinted(vm, record, name)
        return
    try:
        wait_for(
            lambda: vm.console.count(mark) or None,
            Deadline(
                MARK_SECONDS * vm.pace, "the mark that the guest printed to reach its console"
            ),
            interval=0.05,
        )
    except DeadlineError as error:
        raise ObserveError(
            f"the guest's console does not show what its kernel prints: {error.message}",
            hint="see the end of console.log: is it flooded, or did the command line give the "
            "guest another console?",
            evidence=[vm.console.path],
        ) from error
    record_findings(vm, record, name)
    record_unprinted(vm, record, name)


def record_findings(vm: VirtualMachine, record: RunRecord, name: str = "") -> None:
    """Record the console's findings up to its current end that were not recorded yet."""
    for finding in vm.console.final_findings():
        title = name + finding.title
        record.add(ConsoleFinding(record.now(), finding.severity, title, finding.text))


def record_reset(record: RunRecord, error: HarnessError) -> None:
    """Record a crash if the guest reset itself and its console shows no crash."""
    if isinstance(error, QemuGoneError) and error.guest_reset and not record.saw_a_crash:
        record.add(
            ConsoleFinding(record.now(), "crash", error.message, error.hint, on_console=False)
        )
