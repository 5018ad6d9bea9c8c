# SPDX-License-Identifier: Apache-2.0
"""Notice that a QEMU has ended, and collect everything that shows why.

This happens at once, because its control group and files are removed soon after.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.errors import QemuGoneError
from harness.limited_file import LOG_BYTES
from harness.machine.cgroup import host_oom_kills, memory_file, oom_kills
from harness.machine.console import ConsoleWatcher
from harness.machine.host_pressure import MemoryGroup
from harness.machine.process import QemuProcess
from harness.machine.qemu_end import QemuEnd, end_error
from harness.machine.qmp import QmpMonitor
from harness.machine.spec import GuestSpec
from harness.units import format_size

LAST_LINES = 20
"""Lines at the end of the console in which a regular restart is announced."""

LOG = logging.getLogger(__name__)

_GOODBYE = re.compile(r"reboot: (?:Restarting|Power down|machine restart|System halted)")
"""What a kernel prints before a regular restart or power-off (kernel/reboot.c)."""


class EndWatch:
    """Watches one QEMU, from before its start; `gone` may be called from any thread."""

    def __init__(self, spec: GuestSpec, directory: Path) -> None:
        """`directory` is the VM's own, which holds its memory files."""
        self._spec = spec
        self._directory = directory
        self._kills = _group_kills(), host_oom_kills()
        self._process: QemuProcess | None = None
        self._end: QemuEnd | None = None

    def watch(
        self,
        process: QemuProcess,
        monitor: QmpMonitor,
        console: ConsoleWatcher,
        group: Callable[[], MemoryGroup | None],
    ) -> None:
        """Watch a started process; `group` returns QEMU's own control group, once there is one."""
        self._monitor = monitor
        self._console = console
        self._group = group
        self._process = process

    def gone(self) -> QemuGoneError | None:
        """Return why QEMU has ended, or is not worth waiting for; None while it runs."""
        if self._process is None:
            return None
        if (status := self._process.status) is None:
            return self._overflow(self._process.log)
        if self._end is None:
            self._end = self._look(self._process, status)
            LOG.debug("QEMU has ended: %s", self._end)
        return end_error(self._end, self._process.log)

    def _overflow(self, log: Path) -> QemuGoneError | None:
        """Return the error for a QEMU whose error messages do not end; None for any other."""
        try:
            size = log.stat().st_size
        except OSError:
            return None
        if size <= LOG_BYTES:
            return None
        return QemuGoneError(
            f"QEMU wrote more than {format_size(LOG_BYTES)} of messages to its log",
            hint="see qemu.log for what it repeats",
            evidence=[log],
        )

    def _look(self, process: QemuProcess, status: int) -> QemuEnd:
        group = self._group()
        return QemuEnd(
            status=status,
            words=process.last_words(),
            # Only a QEMU that exits by itself sends SHUTDOWN.
            shutdown=self._monitor.shutdown_reason() if status == 0 else "",
            said_goodbye=_GOODBYE.search(self._console.tail(LAST_LINES)) is not None,
            backend=self._spec.backend,
            room=_room(self._directory),
            limit=self._spec.memory_limit,
            killed_by_limit=group is not None and group.kills > 0,
            killed_in_group=_group_kills() > self._kills[0],
            killed_on_host=host_oom_kills() > self._kills[1],
        )


def _group_kills() -> int:
    """Return the number of OOM kills in the control group of this process."""
    charge = memory_file(os.getpid())
    return oom_kills(charge) if charge is not None else 0


def _room(directory: Path) -> int | None:
    """Return the bytes free on the file system of a directory; None if the directory is gone."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
