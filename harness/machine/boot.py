# SPDX-License-Identifier: Apache-2.0
"""Wait until a booting guest is ready, or find out why it will not be."""

import logging
import threading
from collections.abc import Sequence
from typing import Literal

from harness.deadline import Deadline
from harness.errors import (
    BootError,
    GuestBootError,
    GuestCrashError,
    HarnessError,
    InterruptedRunError,
    QemuGoneError,
    SshError,
)
from harness.machine.console import ConsoleWatcher, Finding
from harness.machine.gone import Gone
from harness.machine.qmp import QmpMonitor
from harness.machine.starved import HINT, share, thread_times

LOOK_SECONDS = 0.02

ACCEL_HINT = "see console.log; `fpr-harness doctor` tries this host's accelerators"
INIT_HINT = (
    "see console.log for what the guest's kernel says of it; it depends on the kernel, its modules "
    "(--modules) and guest.cmdline"
)

LOG = logging.getLogger(__name__)


def check_cancelled(cancelled: threading.Event) -> None:
    """Raise `InterruptedRunError` if the run was asked to stop."""
    if cancelled.is_set():
        raise InterruptedRunError("the run was asked to stop")


class BootWatch:
    """Watches one guest boot."""

    def __init__(
        self,
        accel: Literal["kvm", "tcg"],
        console: ConsoleWatcher,
        monitor: QmpMonitor,
        gone: Gone,
        cancelled: threading.Event,
        defects: str,
        pid: int,
    ) -> None:
        """`pid` is that of QEMU. `defects` names its known defects that may crash a guest, or is
        empty.
        """
        self._accel = accel
        self._console = console
        self._monitor = monitor
        self._gone = gone
        self._cancelled = cancelled
        self._defects = defects
        self._pid = pid

    def until_ready(self, deadline: Deadline) -> None:
        """Wait until the guest's init prints that it is ready.

        Raises `BootError`, `QemuGoneError`, `DeadlineError` or `InterruptedRunError` as soon as it
        is known that the guest will not become ready.
        """
        LOG.debug("waiting at most %.1f s for %s", deadline.remaining, deadline.what)
        while not self._console.has_said("ready"):
            self._check(deadline)
            self._cancelled.wait(LOOK_SECONDS)

    def explain(self, error: HarnessError) -> HarnessError:
        """Return the error to raise for one that ended the boot, after reading the console."""
        crash = self._crash(self._console.final_findings())
        if crash is not None:
            return crash
        if isinstance(error, QemuGoneError):
            # If a guest prints nothing under KVM, KVM itself may be broken.
            blameless = self._accel == "kvm" and not self._console.tail()
            if not error.guest_reset or blameless:
                return error
            return self._crash_error(error.message, self._console.tail(), error.hint)
        # A guest that printed `ready` runs; a slow one may be slow because of the accelerator.
        at_fault = isinstance(error, SshError) and self._console.has_said("ready")
        kind = GuestBootError if at_fault else BootError
        had = share(thread_times(self._pid))
        if had.waited > had.ran:
            return self._error(f"{error.message}; {had.words}", kind, HINT)
        return self._error(error.message, kind)

    def _check(self, deadline: Deadline) -> None:
        findings = self._console.poll()
        check_cancelled(self._cancelled)
        if crash := self._crash(findings):
            raise crash
        if gone := self._gone():
            raise gone
        if self._console.init_failure is not None:
            failure = f"its init failed to {self._console.init_failure}"
            raise self._error(failure, GuestBootError, INIT_HINT)
        for event in self._monitor.events():
            if event["event"] == "STOP":
                status = self._monitor.execute("query-status")["status"]
                raise self._error(f"QEMU paused the guest: {status}")
        deadline.check()

    def _crash(self, findings: Sequence[Finding]) -> GuestCrashError | None:
        """Return the error for the first crash among the findings; None without one."""
        crash = next((found for found in findings if found.severity == "crash"), None)
        if crash is None:
            return None
        return self._crash_error(crash.title, crash.text, "see the crash in console.log")

    def _crash_error(self, title: str, text: str, hint: str) -> GuestCrashError:
        return GuestCrashError(
            f"the guest crashed during boot under {self._accel}: {title}",
            hint=hint,
            evidence=[self._console.path],
            title=title,
            text=text,
            accel=self._accel,
            defect=self._defects,
        )

    def _error(
        self, seen: str, kind: type[BootError] = BootError, hint: str = ACCEL_HINT
    ) -> BootError:
        tail = self._console.tail()
        return kind(
            f"the guest did not become ready under {self._accel}: {seen}"
            + (f"\nIts console ended with:\n{tail}" if tail else "\nIts console stayed empty."),
            hint=hint,
            evidence=[self._console.path],
        )
