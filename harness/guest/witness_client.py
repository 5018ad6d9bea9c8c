# SPDX-License-Identifier: Apache-2.0
"""Client of the guest tool's `witness`, which proves loss in memory that churn does not hold.

An audit sees which used pages are absent on the host; only their content tells whether they were
lost or never touched. A witness holds a canary among the guest's used pages, and reads the kernel's
code and constants and the files of the initramfs. A page there that has turned to zeros, or a file
that differs from the image, is lost beyond doubt. The head of guest-images/tool/witness.c describes
its lines.

    with WitnessSession.start(shell, size=8 * MIB) as witness:
        ...                      # PageReader(held_by=[witness.pid]) lets audits check the canary
        seen = witness.verify()
        if seen.lost_pages: ...  # data loss; seen.details says where
"""

from dataclasses import dataclass
from typing import Self

from harness.closing import Closing
from harness.guest.held_pages import Mismatches, Verified, read_verified
from harness.guest.tool_lines import ToolLine, ToolOutput
from harness.image.initramfs import FILE_SUMS
from harness.machine.interfaces import GuestShell

START_SECONDS = 60.0
VERIFY_SECONDS = 60.0
"""Deadline of one look: it reads some 40 MiB, 1 s under TCG, more on a loaded host."""

SEED = 1 << 33
"""Above the seeds of churn and race."""


@dataclass(frozen=True)
class Witnessed:
    """What one look at the canary, the kernel and the files found."""

    canary: Verified
    text_pages: int | None
    """Pages read of the kernel's code and constants; None if the guest's kernel does not let root
    read them (no /proc/kcore, lockdown) or hides its addresses."""
    text_lost: int
    """Those of `text_pages` that have turned to zeros."""
    text_patched: int
    """Those of `text_pages` that have changed otherwise since the witness started, as by the
    kernel's own patching."""
    files: int | None
    """Files that were read; None if the guest has no list of them."""
    files_lost: int
    """Those of `files` that differ from the image."""
    details: tuple[str, ...]
    """The tool's lines on the first losses."""

    @property
    def lost_pages(self) -> int:
        """Number of proven losses: pages, damaged entries of the tool's bookkeeping, and files."""
        canary = self.canary.mismatched_pages + self.canary.damaged
        return canary + self.text_lost + self.files_lost

    @property
    def complete(self) -> bool:
        """Whether the whole canary was checked."""
        return self.canary.checked_bytes == self.canary.held_bytes


class WitnessSession(Closing):
    """One witness process.

    If the tool ends, methods raise `GuestError`; if it crashes, `ToolCrashedError`.
    """

    def __init__(self, lines: ToolOutput, pid: int, held: int, text: bool, files: bool) -> None:
        self._lines = lines
        self._text, self._files = text, files
        self.pid = pid
        """Process id in the guest."""
        self.held = held
        """Size of the canary in bytes."""

    @classmethod
    def start(cls, shell: GuestShell, *, size: int) -> Self:
        """Start the tool, fill a canary of `size` bytes (whole pages), and read everything once.

        Raises `GuestError`, `SshError`, `DeadlineError`.
        """
        command = f"fpr-guest witness --bytes {size} --seed {SEED} --files /{FILE_SUMS}"
        # A witness that the guest's OOM killer takes can say nothing of what it has seen.
        process = shell.start(f"echo -1000 >/proc/self/oom_score_adj; exec {command}")
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
        """Check everything, within `timeout` seconds.

        Raises `GuestError`, `SshError`, `DeadlineError`.
        """
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


class _Lost(Mismatches):
    """Keeps the tool's `lost` lines too."""

    def __call__(self, line: ToolLine) -> None:
        if line.word == "lost":
            self.words.append(line.text)
        super().__call__(line)
