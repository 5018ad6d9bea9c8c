# SPDX-License-Identifier: Apache-2.0
"""Watches a guest's console for trouble: a scanner of text, and a watcher of the growing file.

QEMU writes the file itself, so a flooded or forgotten console never stops the guest.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, GuestError
from harness.growing_file import GrowingFile
from harness.machine.oops import RANK, Headline, Severity, headline_of, looks_suspicious, with_place
from harness.units import format_size

EXCERPT_LINES = 100
"""An oops with registers, code and call trace has about 50 lines, an OOM report up to 100."""

RETOLD_LINES = 3
"""A second headline so close to the first tells of the same trouble: "list_add double add",
"cut here", "kernel BUG at lib/list_debug.c:33!", "invalid opcode: 0000 [#1]"."""

LINE_BYTES = 4096
"""Longer lines are cut: the kernel's own are at most 1 KiB (LOG_LINE_MAX)."""

MAX_BYTES = 64 << 20
"""What a guest may write on its console: a clean run leaves 30 KiB."""

MAX_FINDINGS = 100
READS = 64
"""Pieces taken in at one look: a guest that never stops writing must not hold the harness."""

MAX_SAID = 100
"""Different words that are kept of the guest's init, which has fewer than ten."""


QUIET_SECONDS = 1.0
"""A console silent for so long has told all of a finding that has no end mark."""

FINAL_SECONDS = 3.0

# The last one on a line: a program's words without an end of line may stand before it.
_STAMP = re.compile(r"^.*\[ {0,4}\d{1,9}\.\d{6}\](?:\[[ CT]{0,9}\d{1,9}\])? ?")
_PLACE = re.compile(r"^RIP: 0010:([A-Za-z_][\w.]*)\+")
_END = re.compile(r"^---\[ end |^(?:Memory cgroup o|O)ut of memory: Killed process")
_ANY_STAMP = re.compile(r"\[ {0,4}\d{1,9}\.\d{6}\]")
# Not `\r*\n|\r`, which would look for the `\n` from each `\r` again.
_LINE_END = re.compile(rb"\r+\n?|\n")
_MARKER = re.compile(r"fpr-init: (\w+)(?:: (.*))?")


@dataclass(frozen=True)
class Finding:
    """One kind of trouble, at its first occurrence."""

    severity: Severity
    title: str
    """Without addresses, numbers and time, so that the same trouble has the same title."""
    text: str


@dataclass
class _Open:
    """A finding whose text still grows."""

    severity: Severity
    title: str
    lines: list[str]

    def tells_of(self, head: Headline) -> bool:
        """Whether a headline inside this finding's text is part of the same trouble.

        The panic after an oops is, and a warning inside one; an oops well after a warning is
        not, or it would hide behind it.
        """
        return (
            len(self.lines) < RETOLD_LINES
            or head.title.startswith(self.title)
            or RANK.index(head.severity) < RANK.index(self.severity)
            or head.severity == self.severity == "crash"
        )

    def add(self, line: str, head: Headline | None) -> None:
        """Take in a line, and a better title or a worse severity with it."""
        self.lines.append(line)
        if head is not None:
            self.severity = max(self.severity, head.severity, key=RANK.index)
            if head.title.startswith(self.title):
                self.title = head.title
        if self.severity != "warning" and (place := _PLACE.match(line)):
            self.title = with_place(self.title, place[1])


class ConsoleScanner:
    """Finds trouble in console text fed to it in pieces of any size, in bounded memory."""

    def __init__(self) -> None:
        self._partial = b""
        self._open: _Open | None = None
        self._seen: set[str] = set()
        self._cut = ""
        """Words of a program into which the kernel cut with lines of its own."""
        self.findings: list[Finding] = []
        """The completed ones, in order; each title once."""
        self.said: dict[str, str] = {}
        """What the guest's init said, `fpr-init: WORD: DETAIL`, by word."""

    @property
    def in_the_middle(self) -> bool:
        """Whether a finding's text is still being read."""
        return self._open is not None

    def feed(self, data: bytes) -> None:
        """Read on. A line counts once it is whole."""
        body, newline, rest = (self._partial + data).rpartition(b"\n")
        self._partial = rest[:LINE_BYTES]
        if not newline or (self._open is None and not self._cut and not looks_suspicious(body)):
            return
        for line in _LINE_END.split(body.rstrip(b"\r")):
            if self._open is None and not self._cut and not looks_suspicious(line):
                continue
            text = line[:LINE_BYTES].decode("utf-8", errors="replace")
            self._hear_init(text)
            self._line(_STAMP.sub("", text))

    def complete(self) -> None:
        """Take the finding that is still open as whole: the console has fallen silent."""
        if self._open is None:
            return
        found, self._open = self._open, None
        if found.title not in self._seen and len(self.findings) < MAX_FINDINGS:
            self._seen.add(found.title)
            self.findings.append(Finding(found.severity, found.title, "\n".join(found.lines)))

    def finish(self) -> None:
        """The console has ended, be it in the middle of a line."""
        if self._partial:
            self.feed(b"\n")
        self.complete()

    def _hear_init(self, text: str) -> None:
        """Find the init's words, wherever the kernel's stand: before, behind or between them."""
        stamp = _ANY_STAMP.search(text)
        own = text if stamp is None else text[: stamp.start()]
        joined = self._cut + own
        for words in (text, joined):
            said = _MARKER.search(words)
            if said and (said[1] in self.said or len(self.said) < MAX_SAID):
                self.said[said[1]] = said[2] or ""
        if stamp is None:
            self._cut = ""
        elif own:
            self._cut = joined[:LINE_BYTES]

    def _line(self, line: str) -> None:
        head = headline_of(line)
        if self._open is not None and head is not None and not self._open.tells_of(head):
            self.complete()
        if self._open is not None:
            self._open.add(line, head)
        elif head is not None:
            self._open = _Open(head.severity, head.title, [line])
        if self._open is not None and (_END.match(line) or len(self._open.lines) >= EXCERPT_LINES):
            self.complete()


class ConsoleWatcher:
    """Reads a console file as it grows; each finding is told once.

    `gone` tells why QEMU is no longer there, or None while it runs.
    """

    def __init__(self, path: Path, gone: Callable[[], object]) -> None:
        self.path = path
        self._gone = gone
        self._scanner = ConsoleScanner()
        self._file = GrowingFile(path, "the guest's console")
        self._last_grown = time.monotonic()
        self._told = 0

    def poll(self) -> list[Finding]:
        """Read what is new, and give every finding so far without counting it as told.

        Raises `ObserveError` if the file was deleted, replaced or cut.
        """
        for _ in range(READS):
            data = self._file.read()
            if not data:
                break
            self._scanner.feed(data)
            self._last_grown = time.monotonic()
        if time.monotonic() - self._last_grown >= QUIET_SECONDS:
            self._scanner.complete()
        return list(self._scanner.findings)

    def new_findings(self) -> list[Finding]:
        """What was found since the last call. A file that is not there yet holds nothing.

        A finding is told when its text is complete, or the console silent for `QUIET_SECONDS`.
        """
        findings = self.poll()[self._told :]
        self._told += len(findings)
        return findings

    def final_findings(self) -> list[Finding]:
        """Like `new_findings`, after giving what is being printed time to end."""

        def ended() -> bool | None:
            gone = self._gone() is not None
            self.poll()
            return True if gone or not self._scanner.in_the_middle else None

        # What there is by then will do.
        with contextlib.suppress(DeadlineError):
            wait_for(ended, Deadline(FINAL_SECONDS, "the console's last words"))
        self.poll()
        self._scanner.finish()
        return self.new_findings()

    def has_said(self, word: str) -> bool:
        """Whether a line `fpr-init: WORD` had come by the last look."""
        return word in self._scanner.said

    def count(self, words: str) -> int:
        """How often these words stand on the console by now."""
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_BYTES).count(words.encode())
        except OSError:
            return 0

    def overflow(self) -> GuestError | None:
        """The error for a console on which the guest wrote more than `MAX_BYTES`."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return None  # `poll` tells of a file that is gone
        if size <= MAX_BYTES:
            return None
        return GuestError(
            f"the guest wrote more than {format_size(MAX_BYTES)} on its console",
            hint="see console.log for what it repeats; a quieter guest.cmdline may help",
            evidence=[self.path],
        )

    @property
    def init_failure(self) -> str | None:
        """What the guest's init said it could not do, by the last look."""
        return self._scanner.said.get("FAILED")

    def tail(self, lines: int = 8) -> str:
        """The last lines, for an error message."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8 * LINE_BYTES))
                text = file.read(8 * LINE_BYTES).decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line.rstrip() for line in text.splitlines()[-lines:])
