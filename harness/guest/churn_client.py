# SPDX-License-Identifier: Apache-2.0
"""Client of the guest tool's `churn`, a process that holds patterned memory and takes commands.

The head of guest-images/tool/churn.c describes its lines.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

from harness.closing import Closing
from harness.errors import GuestError, SshError
from harness.guest.held_pages import Mismatches, Verified, read_verified
from harness.guest.tool_lines import ToolLine, ToolOutput
from harness.machine.interfaces import GuestProcess, GuestShell

FREE_SECONDS = 60.0
"""Deadline of a free: it takes 1 s per GiB under TCG, longer if huge pages must be split."""

# A FIFO opened for reading and writing survives the loss of its other reader or writer.
_DETACHED = (
    "rm -f /run/churn.in /run/churn.out; mkfifo /run/churn.in /run/churn.out && "
    "{{ setsid {command} <>/run/churn.in 1<>/run/churn.out 2>&1 & }}"
)
# Kill the reader of a lost connection first: it would steal part of this connection's output.
_ATTACH = (
    "kill $(cat /run/churn.reader) 2>/dev/null; cat /run/churn.out & echo $! >/run/churn.reader; "
    "exec cat >/run/churn.in"
)

OUT_OF_MEMORY = "check console.log for an OOM kill; if it was one, hold less (churn: size)"

Progress = Callable[[int], None]
"""Called with the bytes filled so far, about twice a second."""

Hugepages = Literal["default", "never", "always"]


@dataclass(frozen=True)
class Freed:
    """What the tool freed, and what it still holds."""

    bytes: int
    blocks: int
    """Physical blocks freed by `free_blocks`; otherwise 0."""
    held_bytes: int


class ChurnSession(Closing):
    """One churn process.

    If the tool dies (OOM kill, crash), methods raise `GuestError` with its last words.
    """

    def __init__(self, process: GuestProcess, size: int, *, detached: bool = False) -> None:
        self._process = process
        self._size = size
        self._lines = ToolOutput(process, "the churn tool", OUT_OF_MEMORY)
        self._detached = detached
        self.pid = 0
        """Process id in the guest."""
        self.held = 0
        """Bytes that the tool holds."""
        self.fill_seconds = 0.0
        """Duration of the last fill by the guest's clock."""

    @classmethod
    def start(
        cls,
        shell: GuestShell,
        *,
        size: int,
        seed: int,
        hugepages: Hugepages,
        timeout: float,
        on_progress: Progress = lambda _filled: None,
        detached: bool = False,
    ) -> Self:
        """Start the tool and fill `size` bytes with the pattern of `seed`.

        `size`: whole pages; `seed`: not 0; `timeout`: seconds for the fill; `detached`: the tool
        outlives the connection, and `attach` reaches it over another. Raises `GuestError`,
        `SshError`, `DeadlineError`; then nothing is held.
        """
        command = f"fpr-guest churn --bytes {size} --seed {seed} --hugepages {hugepages}"
        if detached:
            shell.run(_DETACHED.format(command=command))
        session = cls(shell.start(_ATTACH if detached else command), size, detached=detached)
        try:
            session._await_filled(timeout, on_progress)
        except BaseException:
            session.close()
            raise
        return session

    def verify(self, timeout: float) -> Verified:
        """Compare every held word with its pattern, within `timeout` seconds."""
        self._lines.send("verify")
        return read_verified(self._lines, timeout, Mismatches(), self.held)

    def free_all(self) -> Freed:
        """Free everything."""
        self._lines.send("free all")
        return self._await_freed()

    def attach(self, shell: GuestShell) -> None:
        """Continue over another connection; the tool must have been started detached."""
        self._process.close()
        self._process = shell.start(_ATTACH)
        self._lines = replace(self._lines, process=self._process)

    def free_tails(self) -> Freed:
        """Free all but the first page of every huge page, without splitting any."""
        self._lines.send("free tails")
        return self._await_freed()

    def free_blocks(self, *, order: int, stride: int, offset: int) -> Freed:
        """Free the entirely held physical blocks of `order` with number % stride == offset."""
        self._lines.send(f"free blocks {order} {stride} {offset}")
        return self._await_freed()

    def refill(
        self, *, seed: int, timeout: float, on_progress: Progress = lambda _filled: None
    ) -> None:
        """Fill what was freed again, with the pattern of another `seed`, and hold it."""
        self._lines.send(f"refill {seed}")
        self._await_filled(timeout, on_progress)

    def close(self) -> None:
        """End the tool; its memory goes with it. Never raises."""
        if self._detached:
            with contextlib.suppress(SshError):
                self._process.write(b"exit\n")
        self._process.close()

    def _await_filled(self, timeout: float, on_progress: Progress) -> None:
        def note(line: ToolLine) -> None:
            if line.word == "filling":
                on_progress(int(line.value("bytes")))

        line = self._lines.await_line("filled", timeout, note)
        self.pid, self.held = int(line.value("pid")), self._bytes(line, "bytes")
        self.fill_seconds = line.value("seconds")

    def _await_freed(self) -> Freed:
        line = self._lines.await_line("freed", FREE_SECONDS)
        self.held = self._bytes(line, "held_bytes")
        return Freed(self._bytes(line, "bytes"), int(line.value("blocks")), self.held)

    def _bytes(self, line: ToolLine, key: str) -> int:
        """Read a size that the tool reports.

        Deadlines and measures follow from it, so more than the tool was asked to hold is refused.
        Raises `GuestError`.
        """
        size = int(line.value(key))
        if size > self._size:
            raise GuestError(
                f"the churn tool was asked to hold {self._size} bytes and reports more: "
                f"{line.text!r:.200}"
            )
        return size
