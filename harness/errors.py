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
    """The command line asks for something that cannot be meant. Exit status 2."""


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

    guest_crashed = False
    """Whether the guest's kernel itself crashed on the way: under TCG worth another try."""


class GuestBootError(BootError):
    """The guest ran and failed by itself: its kernel crashed, its init gave up."""


class QemuGoneError(HarnessError):
    """QEMU ended while its guest was in use (verdict MISS, unless the console tells more)."""


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
    """Results could not be written: disk full, directory not writable (verdict MISS)."""


class InterruptedRunError(HarnessError):
    """The user or the system asked the run to stop (verdict MISS)."""
