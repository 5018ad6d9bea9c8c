# SPDX-License-Identifier: Apache-2.0
"""The guest tool's `churn`: a process that holds patterned memory and obeys.

Its lines are described at the head of guest-images/tool/churn.c.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, SshError
from harness.guest.tool_end import last_words
from harness.machine.interfaces import GuestProcess, GuestShell

FREE_SECONDS = 60.0
"""For giving memory back: a second a GiB under emulation, longer where huge pages are split."""

# A pipe opened for both ways outlives whoever reads from it or writes to it.
_DETACHED = (
    "rm -f /run/churn.in /run/churn.out; mkfifo /run/churn.in /run/churn.out && "
    "{{ setsid {command} <>/run/churn.in 1<>/run/churn.out 2>&1 & }}"
)
# The reader of a connection that is gone would take a part of what is meant for this one.
_ATTACH = (
    "kill $(cat /run/churn.reader) 2>/dev/null; cat /run/churn.out & echo $! >/run/churn.reader; "
    "exec cat >/run/churn.in"
)

Progress = Callable[[int], None]
"""Called with the bytes filled so far, about twice a second."""

Hugepages = Literal["default", "never", "always"]


@dataclass(frozen=True)
class Verified:
    """What a check of every held word found."""

    bytes: int
    mismatched_pages: int
    mismatches: tuple[str, ...]
    """The tool's words on the first of them: page, PFN, offset, expected, found."""


@dataclass(frozen=True)
class Freed:
    """What was given back, and what is still held."""

    bytes: int
    blocks: int
    """Physical blocks, where blocks were asked for; else 0."""
    held_bytes: int


class ChurnSession:
    """One churn process. A tool that dies (OOM, crash) raises `GuestError` with its last words."""

    def __init__(self, process: GuestProcess, *, detached: bool = False) -> None:
        self._process = process
        self._detached = detached
        self.pid = 0
        """In the guest."""
        self.held = 0
        """Bytes held now."""
        self.fill_seconds = 0.0
        """Guest seconds the last filling took."""

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
        """Fill `size` bytes, whole pages, with a pattern of `seed`, which is not 0.

        `detached`: it outlives the connection, and `attach` finds it again over another. Raises
        `GuestError`, `SshError`, `DeadlineError`; nothing is held then.
        """
        command = f"fpr-guest churn --bytes {size} --seed {seed} --hugepages {hugepages}"
        if detached:
            shell.run(_DETACHED.format(command=command))
        session = cls(shell.start(_ATTACH if detached else command), detached=detached)
        try:
            session._await_filled(timeout, on_progress)
        except BaseException:
            session.close()
            raise
        return session

    def verify(self, timeout: float) -> Verified:
        """Compare every held word with its pattern."""
        self._send("verify")
        mismatches: list[str] = []

        def note(line: _Line) -> None:
            if line.word == "mismatch":
                mismatches.append(line.text)

        line = self._await("verified", timeout, note)
        return Verified(
            int(line.value("bytes")), int(line.value("mismatched_pages")), tuple(mismatches)
        )

    def free_all(self) -> Freed:
        """Give everything back."""
        self._send("free all")
        return self._await_freed()

    def attach(self, shell: GuestShell) -> None:
        """Go on over another connection with a tool that was started detached."""
        self._process.close()
        self._process = shell.start(_ATTACH)

    def free_tails(self) -> Freed:
        """Give back all but the first page of every huge page, and split none."""
        self._send("free tails")
        return self._await_freed()

    def free_blocks(self, *, order: int, stride: int, offset: int) -> Freed:
        """Give back the wholly held physical blocks of `order` with number % stride == offset."""
        self._send(f"free blocks {order} {stride} {offset}")
        return self._await_freed()

    def refill(
        self, *, seed: int, timeout: float, on_progress: Progress = lambda _filled: None
    ) -> None:
        """Write what was given back again, with a pattern of another seed, and hold it."""
        self._send(f"refill {seed}")
        self._await_filled(timeout, on_progress)

    def close(self) -> None:
        """End the tool; its memory goes with it. Never raises."""
        if self._detached:
            with contextlib.suppress(SshError):
                self._process.write(b"exit\n")
        self._process.close()

    def _send(self, command: str) -> None:
        try:
            self._process.write(f"{command}\n".encode())
        except SshError as error:
            raise self._death(error) from error

    def _await_filled(self, timeout: float, on_progress: Progress) -> None:
        def note(line: _Line) -> None:
            if line.word == "filling":
                on_progress(int(line.value("bytes")))

        line = self._await("filled", timeout, note)
        self.pid, self.held = int(line.value("pid")), int(line.value("bytes"))
        self.fill_seconds = line.value("seconds")

    def _await_freed(self) -> Freed:
        line = self._await("freed", FREE_SECONDS)
        self.held = int(line.value("held_bytes"))
        return Freed(int(line.value("bytes")), int(line.value("blocks")), self.held)

    def _await(
        self, word: str, timeout: float, note: Callable[["_Line"], None] = lambda _line: None
    ) -> "_Line":
        """The next line that begins with `word`; `note` gets the lines before it."""
        deadline = Deadline(timeout, f"the churn tool to say `{word}`")
        while True:
            try:
                line = _Line(self._process.read_line(deadline.remaining))
            except SshError as error:
                raise self._death(error) from error
            if line.word == word:
                return line
            note(line)
            deadline.check(line.text)

    def _death(self, error: SshError) -> HarnessError:
        """A tool that ended is the guest's doing; a broken connection is not."""
        words = last_words(self._process, error)
        if words is None:
            return error
        return GuestError(
            f"the churn tool ended while it was needed: {words}",
            hint="was it killed for want of memory? See console.log; hold less (churn: size)",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Line:
    """`word key=value ...`, as the tool says it."""

    text: str

    @property
    def word(self) -> str:
        return self.text.partition(" ")[0]

    def value(self, key: str) -> float:
        """Raises `GuestError` when there is no such number."""
        match = re.search(rf" {key}=(\d{{1,20}}(?:\.\d{{1,20}})?)(?: |$)", self.text)
        if match is None:
            raise GuestError(f"the churn tool said {self.text!r}, without a number `{key}`")
        return float(match[1])
