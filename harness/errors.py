# SPDX-License-Identifier: Apache-2.0
"""The project's exception tree.

Every error that a user can see is a `HarnessError`. Its message says what was tried and what was
seen, `hint` says what to do next, and `evidence` names files worth reading. The class decides the
verdict of a run that it ends (`verdict_of` in `harness.run.runner`). Outside a run, usage errors
and mistakes in files exit with status 2, all others with 69.
"""

from collections.abc import Sequence
from pathlib import Path

USAGE = 2
UNAVAILABLE = 69
"""Exit status (EX_UNAVAILABLE in sysexits.h): runs ended in ERROR or MISS, and none in FAIL."""


class HarnessError(Exception):
    """Base of every error that this project raises on purpose."""

    def __init__(self, message: str, *, hint: str = "", evidence: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = tuple(evidence)

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(f"What to do: {self.hint}")
        if self.evidence:
            parts.append("See: " + ", ".join(str(path) for path in self.evidence))
        return "\n".join(parts)


class UsageError(HarnessError):
    """The command line is wrong: an unknown name, or options that exclude each other (status 2)."""


class ScenarioFileError(HarnessError):
    """A scenario or image file is wrong; the message lists every mistake (exit status 2)."""


class ScenarioError(HarnessError):
    """The scenario itself broke while running (verdict ERROR)."""


class PreconditionError(HarnessError):
    """A stated precondition is absent on this host or guest (verdict SKIP)."""


class ImageError(HarnessError):
    """A guest image could not be built or is damaged (verdict MISS)."""


class LaunchError(HarnessError):
    """QEMU could not be started, or ended before the guest ran (verdict MISS)."""


class BootError(HarnessError):
    """The guest did not become ready before its deadline (verdict MISS)."""


class GuestBootError(BootError):
    """The guest ran but its user space failed: init gave up, or SSH refused the log-in (MISS)."""


class GuestCrashError(GuestBootError):
    """The guest's kernel crashed during boot (FAIL, unless a defect of QEMU may explain it)."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        evidence: Sequence[Path] = (),
        title: str,
        text: str,
        accel: str,
        defect: str = "",
    ) -> None:
        """`title` and `text` come from the console, `accel` ran the guest, and `defect` is a known
        defect of QEMU that may have caused the crash, or ""."""
        super().__init__(message, hint=hint, evidence=evidence)
        self.title = title
        self.text = text
        self.accel = accel
        self.defect = defect


class QemuGoneError(HarnessError):
    """QEMU ended while its guest was in use (verdict MISS, unless the console shows a crash)."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        evidence: Sequence[Path] = (),
        guest_reset: bool = False,
    ) -> None:
        """`guest_reset`: QEMU ended because the guest reset the machine without being asked to."""
        super().__init__(message, hint=hint, evidence=evidence)
        self.guest_reset = guest_reset


class GuestError(HarnessError):
    """A command in the guest failed, or its output makes no sense (verdict ERROR)."""


class ToolCrashedError(GuestError):
    """A signal such as SIGSEGV killed the guest tool (FAIL): the guest corrupted its memory."""


class QmpError(HarnessError):
    """QMP refused a command, closed the connection or did not answer in time (verdict MISS)."""


class QmpSilentError(QmpError):
    """QEMU did not answer in time."""


class SshError(HarnessError):
    """The SSH connection could not be made, broke, or did not answer in time (verdict MISS)."""


class ObserveError(HarnessError):
    """An instrument could not look (verdict MISS), which differs from seeing nothing."""


class DeadlineError(HarnessError):
    """A wait passed its deadline (verdict MISS); the message says what was waited for."""


class GuestStuckError(DeadlineError):
    """The guest did not do in time what a step asked of its kernel.

    The verdict is FAIL once QEMU's state and the guest's answer show that the guest still runs.
    """


class RecordError(HarnessError):
    """Results could not be read or written (disk full, directory not writable), or were changed
    since they were written (verdict MISS)."""


class InternalError(HarnessError):
    """The harness itself has a bug (verdict ERROR), which says nothing about the guest."""


class InterruptedRunError(HarnessError):
    """The user or the system asked the run to stop (verdict MISS)."""
