# SPDX-License-Identifier: Apache-2.0
"""The one exception tree of the project.

Every error a user can meet is a `HarnessError`. Its message says what was tried and what was
seen; `hint` says what to do next; `evidence` names files worth reading. The class decides the
verdict of the run it ends (see `harness.run`): usage and scenario errors exit with 2, everything
else is ERROR or MISS and exits with 69.
"""

from collections.abc import Sequence
from pathlib import Path

USAGE = 2
UNAVAILABLE = 69
"""Exit status, as in sysexits.h: the scenario or the infrastructure broke, and nothing failed."""


class HarnessError(Exception):
    """Base of every error this project raises on purpose."""

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
    """The command line is wrong: an unknown name, options that exclude each other. Status 2."""


class ScenarioFileError(HarnessError):
    """A scenario or image file is wrong; the message lists every mistake. Exit status 2."""


class ScenarioError(HarnessError):
    """The scenario itself broke while running (verdict ERROR)."""


class PreconditionError(HarnessError):
    """A stated precondition is absent on this host or guest (verdict SKIP)."""


class ImageError(HarnessError):
    """A guest image could not be made or is damaged (verdict MISS)."""


class LaunchError(HarnessError):
    """QEMU could not be started, or ended before the guest ran (verdict MISS)."""


class BootError(HarnessError):
    """The guest did not become ready before its deadline (verdict MISS)."""


class GuestBootError(BootError):
    """The guest ran and failed by itself: its init gave up, it refused the log-in (MISS)."""


class GuestCrashError(GuestBootError):
    """The guest's kernel crashed while it booted (FAIL, unless a defect of QEMU may explain it)."""

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
        """`title` and `text` are the crash's own, `accel` is what ran the guest, and `defect` what
        QEMU is known to do wrong that may have brought the crash about."""
        super().__init__(message, hint=hint, evidence=evidence)
        self.title = title
        self.text = text
        self.accel = accel
        self.defect = defect


class QemuGoneError(HarnessError):
    """QEMU ended while its guest was in use (verdict MISS, unless the console tells more)."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        evidence: Sequence[Path] = (),
        guest_reset: bool = False,
    ) -> None:
        """`guest_reset`: QEMU ended because the guest reset the machine unasked."""
        super().__init__(message, hint=hint, evidence=evidence)
        self.guest_reset = guest_reset


class GuestError(HarnessError):
    """A command in the guest failed or answered nonsense."""


class ToolCrashedError(GuestError):
    """The guest tool was killed by a fault of its own (FAIL): its memory is the guest's."""


class QmpError(HarnessError):
    """QMP refused, broke off, or did not answer in time."""


class SshError(HarnessError):
    """The SSH connection could not be made, broke off, or did not answer in time."""


class ObserveError(HarnessError):
    """An instrument could not look (verdict MISS): never the same as having seen nothing."""


class DeadlineError(HarnessError):
    """A wait passed its deadline; the message says what was waited for."""


class GuestStuckError(DeadlineError):
    """The guest did not do in time what a step asks of its kernel (FAIL, once QEMU's state and the
    guest's own answer show that it runs)."""


class RecordError(HarnessError):
    """Results could not be written (disk full, directory not writable), or are not what was written
    (verdict MISS)."""


class InternalError(HarnessError):
    """The harness met a defect of its own (verdict ERROR): it says nothing about the guest."""


class InterruptedRunError(HarnessError):
    """The user or the system asked the run to stop (verdict MISS)."""
