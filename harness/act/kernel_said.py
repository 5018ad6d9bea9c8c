# SPDX-License-Identifier: Apache-2.0
"""Record the trouble that the guest's kernel has logged and that its console does not show."""

import logging
import re

from harness.act.run_record import RunRecord
from harness.errors import DeadlineError, ObserveError, QemuGoneError, SshError
from harness.machine.kernel_log import all_findings, read_kernel_log
from harness.machine.vm import VirtualMachine
from harness.record.events import ConsoleFinding

LOG = logging.getLogger(__name__)

KERNEL_LOG = "kernel.log"
"""The kernel's log as it was read, beside console.log; only where the console lacks some of it."""

UNPRINTED = "the guest's kernel has logged, and its console does not show: "
"""How the titles of such findings begin."""

_QUIET = re.compile(r"quiet|loglevel=[0-4]")
"""Words of a kernel's command line (init/main.c)."""


def record_unprinted(vm: VirtualMachine, record: RunRecord, name: str = "") -> None:
    """Record what is in the log and was not found on the console, and keep that log.

    `name` is the prefix of the findings' titles. A guest that cannot be reached is passed over:
    then the console alone tells, unless the guest's command line keeps it quiet. Raises
    `ObserveError` if the log cannot be read or kept, or has lost what the console was not shown.
    """
    try:
        log = read_kernel_log(vm.shell)
    except (SshError, DeadlineError, QemuGoneError) as error:
        quiet = [word for word in vm.spec.cmdline.split() if _QUIET.fullmatch(word)]
        if quiet:
            raise ObserveError(
                f"the guest keeps its kernel's warnings off the console ({' '.join(quiet)}), and "
                f"its kernel's log cannot be read: {error.message}",
                hint="leave that out of guest.cmdline",
            ) from error
        LOG.debug("the guest's kernel log could not be read: %s", error)
        return
    told = {event.title for event in record.events if isinstance(event, ConsoleFinding)}
    new = [
        (finding, title)
        for finding in all_findings(log)
        if name + finding.title not in told
        and (title := name + UNPRINTED + finding.title) not in told
    ]
    if not new:
        return
    path = vm.console.path.with_name(KERNEL_LOG)
    try:
        with path.open("ab") as file:
            file.write(log.text)
    except OSError as error:
        raise ObserveError(f"cannot keep the guest's kernel log: {error}") from error
    for finding, title in new:
        record.add(
            ConsoleFinding(record.now(), finding.severity, title, finding.text, on_console=False)
        )
