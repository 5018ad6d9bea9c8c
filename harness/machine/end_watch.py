# SPDX-License-Identifier: Apache-2.0
"""Notices that a QEMU has ended, and gathers at once all that tells how.

At once, because its control group and its files go soon after.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.errors import QemuGoneError
from harness.machine.cgroup import host_oom_kills, memory_file, oom_kills
from harness.machine.console import ConsoleWatcher
from harness.machine.host_pressure import MemoryGroup
from harness.machine.process import QemuProcess
from harness.machine.qemu_end import QemuEnd, end_error
from harness.machine.qmp import QmpMonitor
from harness.machine.spec import GuestSpec

LAST_LINES = 20
"""Of the console, in which a guest that restarts in order says so."""

LOG = logging.getLogger(__name__)

_GOODBYE = re.compile(r"reboot: (?:Restarting|Power down|machine restart|System halted)")
"""What a kernel prints before it restarts or powers off in order (kernel/reboot.c)."""


class EndWatch:
    """Watches one QEMU from before its start. Call `gone` from any thread."""

    def __init__(self, spec: GuestSpec, directory: Path) -> None:
        """`directory` is the VM's own, where its memory files lie."""
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
        """The process has started. `group` gives QEMU's own control group, once there is one."""
        self._monitor = monitor
        self._console = console
        self._group = group
        self._process = process

    def gone(self) -> QemuGoneError | None:
        """Why QEMU is no longer there; None while it runs."""
        if self._process is None or (status := self._process.status) is None:
            return None
        if self._end is None:
            self._end = self._look(self._process, status)
            LOG.debug("QEMU has ended: %s", self._end)
        return end_error(self._end, self._process.log)

    def _look(self, process: QemuProcess, status: int) -> QemuEnd:
        group = self._group()
        return QemuEnd(
            status=status,
            words=process.last_words(),
            # Only a QEMU that ended in order says why.
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
    """OOM kills so far in the control group of this process."""
    charge = memory_file(os.getpid())
    return oom_kills(charge) if charge is not None else 0


def _room(directory: Path) -> int | None:
    """Bytes free on the file system of a directory, if it is still there."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
