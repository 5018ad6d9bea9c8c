# SPDX-License-Identifier: Apache-2.0
"""The guest tool's `witness`: a second word on used memory that the churn tool does not hold.

An audit sees which used pages are absent on the host; whether they were lost or never touched only
their contents tell. A witness holds a canary among the guest's used pages, and reads the kernel's
code and constants and the files of the initramfs: what has become zeros there, or differs from
what was built, is lost beyond doubt. Its lines are described at the head of
guest-images/tool/witness.c.

    with WitnessSession.start(shell, size=8 * MIB) as witness:
        ...                     # witness.pid: for PageReader(held_by=...), so that audits too see
        seen = witness.verify() # whether the host has lost a page of the canary
        if seen.lost_pages: ... # data loss; seen.details says where
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness.guest.held_pages import Mismatches, Verified, read_verified
from harness.guest.tool_lines import ToolLine, ToolOutput
from harness.image.initramfs import FILE_SUMS
from harness.machine.interfaces import GuestShell

START_SECONDS = 60.0
VERIFY_SECONDS = 60.0
"""Reads some 40 MiB: 1 s under emulation, more on a loaded host."""

SEED = 1 << 33
"""Beyond those of churn and race."""


@dataclass(frozen=True)
class Witnessed:
    """What one look at all of it found."""

    canary: Verified
    text_pages: int | None
    """Pages of the kernel's code and constants that were read; None where the guest's kernel does
    not let root read them (no /proc/kcore, lockdown), or tells no addresses."""
    text_lost: int
    """Those of them that were not zeros and are now."""
    text_patched: int
    """Those that have changed since the witness started, as the kernel's own patching does."""
    files: int | None
    """Files that were read; None where the guest has no list of them."""
    files_lost: int
    """Those of them that are not what the image was built with."""
    details: tuple[str, ...]
    """The tool's words on the first of all that is lost."""

    @property
    def lost_pages(self) -> int:
        """Proofs of loss: pages, damaged entries of the tool's bookkeeping, and files."""
        canary = self.canary.mismatched_pages + self.canary.damaged
        return canary + self.text_lost + self.files_lost

    @property
    def complete(self) -> bool:
        """Whether the whole canary was looked at; what it is not, is not verified."""
        return self.canary.checked_bytes == self.canary.held_bytes


class WitnessSession:
    """One witness. A tool that dies raises `GuestError`, one that crashes `ToolCrashedError`."""

    def __init__(self, lines: ToolOutput, pid: int, held: int, text: bool, files: bool) -> None:
        self._lines = lines
        self._text, self._files = text, files
        self.pid = pid
        """In the guest."""
        self.held = held
        """Bytes of the canary."""

    @classmethod
    def start(cls, shell: GuestShell, *, size: int) -> Self:
        """Fill a canary of `size` bytes, whole pages, and read everything a first time.

        Raises `GuestError`, `SshError`, `DeadlineError`.
        """
        command = f"fpr-guest witness --bytes {size} --seed {SEED} --files /{FILE_SUMS}"
        process = shell.start(command)
        lines = ToolOutput(process, "the witness")
        try:
            filled = lines.await_line("filled", START_SECONDS)
            begun = lines.await_line("witness", START_SECONDS)
        except BaseException:
            process.close()
            raise
        return cls(
            lines,
            pid=int(filled.value("pid")),
            held=int(filled.value("bytes")),
            text=begun.value("text_pages") > 0,
            files=begun.value("files") > 0,
        )

    def verify(self, timeout: float = VERIFY_SECONDS) -> Witnessed:
        """Look at everything. Raises `GuestError`, `SshError`, `DeadlineError`."""
        lost = _Lost()
        self._lines.send("verify")
        canary = read_verified(self._lines, timeout, lost, self.held)
        line = self._lines.await_line("witnessed", timeout, lost)
        return Witnessed(
            canary=canary,
            text_pages=int(line.value("text_pages")) if self._text else None,
            text_lost=int(line.value("text_lost")),
            text_patched=int(line.value("text_patched")),
            files=int(line.value("files")) if self._files else None,
            files_lost=int(line.value("files_lost")),
            details=tuple(lost.words),
        )

    def close(self) -> None:
        """End the tool; its memory goes with it. Never raises."""
        self._lines.process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Lost(Mismatches):
    """Keeps `lost` lines too."""

    def __call__(self, line: ToolLine) -> None:
        if line.word == "lost":
            self.words.append(line.text)
        super().__call__(line)
