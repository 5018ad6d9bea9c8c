# SPDX-License-Identifier: Apache-2.0
"""Watch a guest's console for trouble: a scanner of text, and a watcher of the growing file.

QEMU writes the file itself, so a flooded or unread console never stops the guest.
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

EXCERPT_LINES = 150
"""The most lines of a finding: an oops with call trace has about 50, an OOM report up to 100, and a
report of KASAN, with the stacks of the use, the allocation and the free, some 110."""

RETOLD_LINES = 3
"""Lines within which a second headline belongs to the same trouble: "list_add double add",
"cut here", "kernel BUG at lib/list_debug.c:33!", "invalid opcode: 0000 [#1]"."""

LINE_BYTES = 4096
"""Longer lines are cut; the kernel's are at most 1 KiB (LOG_LINE_MAX, kernel/printk/printk.c)."""

MAX_BYTES = 64 << 20
"""The most a guest may write on its console; a clean run writes 30 KiB."""

MAX_FINDINGS = 100
READS = 64
"""The most pieces read in one poll, so that a guest that never stops writing cannot block it."""

MAX_SAID = 100
"""The most different messages kept of the guest's init, which has fewer than ten."""


QUIET_SECONDS = 1.0
"""Silence after which a finding without an end mark is complete."""

FINAL_SECONDS = 3.0

# Matches up to the last time stamp of a line, as a program's unfinished line may precede it.
_STAMP = re.compile(r"^.*\[ {0,4}\d{1,9}\.\d{6}\](?:\[[ CT]{0,9}\d{1,9}\])? ?")
_PLACE = re.compile(r"^RIP: 0010:([A-Za-z_][\w.]*)\+")
# The sanitizers end as they begin, with a line of equals signs (mm/kasan/report.c, lib/ubsan.c).
_END = re.compile(r"^---\[ end |^(?:Memory cgroup o|O)ut of memory: Killed process|^={20,}$")
_ANY_STAMP = re.compile(r"\[ {0,4}\d{1,9}\.\d{6}\]")
# Not `\r*\n|\r`, which would search for the `\n` again from each `\r`.
_LINE_END = re.compile(rb"\r+\n?|\n")
_MARKER = re.compile(r"fpr-init: (\w+)(?:: (.*))?")


@dataclass(frozen=True)
class Finding:
    """One kind of trouble, with the text of its first occurrence."""

    severity: Severity
    title: str
    """Headline without addresses, numbers and time, so that the same trouble has the same title."""
    text: str


@dataclass
class _Open:
    """A finding whose text is still being read."""

    severity: Severity
    title: str
    lines: list[str]

    def tells_of(self, head: Headline) -> bool:
        """Whether a headline in this finding's text belongs to the same trouble.

        A panic after an oops does, and a warning inside an oops. An oops well after a warning does
        not, because it would be reported as a warning.
        """
        return (
            len(self.lines) < RETOLD_LINES
            or head.title.startswith(self.title)
            or RANK.index(head.severity) < RANK.index(self.severity)
            or head.severity == self.severity == "crash"
        )

    def add(self, line: str, head: Headline | None) -> None:
        """Add a line, and take over a more precise title or a worse severity from it."""
        self.lines.append(line)
        if head is not None:
            self.severity = max(self.severity, head.severity, key=RANK.index)
            if head.title.startswith(self.title):
                self.title = head.title
        if self.severity != "warning" and (place := _PLACE.match(line)):
            self.title = with_place(self.title, place[1])


class ConsoleScanner:
    """Finds trouble in console text, fed in pieces of any size, using bounded memory."""

    def __init__(self) -> None:
        self._partial = b""
        self._open: _Open | None = None
        self._seen: set[str] = set()
        self._cut = ""
        """A program's line that kernel messages have interrupted."""
        self.findings: list[Finding] = []
        """Complete findings, in order, each title once."""
        self.said: dict[str, str] = {}
        """Messages of the guest's init (`fpr-init: WORD: DETAIL`), by word."""

    @property
    def in_the_middle(self) -> bool:
        """Whether a finding's text is still being read."""
        return self._open is not None

    def feed(self, data: bytes) -> None:
        """Scan further text; a line counts once it is complete."""
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
        """Complete the finding that is being read, because the console is silent."""
        if self._open is None:
            return
        found, self._open = self._open, None
        if found.title not in self._seen and len(self.findings) < MAX_FINDINGS:
            self._seen.add(found.title)
            self.findings.append(Finding(found.severity, found.title, "\n".join(found.lines)))

    def finish(self) -> None:
        """Scan an unfinished last line, because the console has ended."""
        if self._partial:
            self.feed(b"\n")
        self.complete()

    def _hear_init(self, text: str) -> None:
        """Find messages of the init, even if kernel messages precede, follow or interrupt them."""
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
    """Reads a console file as it grows, and returns each finding once.

    `gone` returns why QEMU has ended, or None while it runs.
    """

    def __init__(self, path: Path, gone: Callable[[], object]) -> None:
        self.path = path
        self._gone = gone
        self._scanner = ConsoleScanner()
        self._file = GrowingFile(path, "the guest's console")
        self._last_grown = time.monotonic()
        self._told = 0

    def poll(self) -> list[Finding]:
        """Read new text and return all findings so far, whether they were returned before or not.

        Raises `ObserveError` if the file was deleted, replaced or truncated.
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
        """Return the findings since the last call; none while the file does not exist yet.

        A finding is returned when its text is complete, or the console was silent for
        `QUIET_SECONDS`. Raises like `poll`.
        """
        findings = self.poll()[self._told :]
        self._told += len(findings)
        return findings

    def final_findings(self) -> list[Finding]:
        """Return findings like `new_findings`, after waiting for one that is being printed."""

        def ended() -> bool | None:
            gone = self._gone() is not None
            self.poll()
            return True if gone or not self._scanner.in_the_middle else None

        # A finding that is still growing at the deadline is returned as it is.
        with contextlib.suppress(DeadlineError):
            wait_for(ended, Deadline(FINAL_SECONDS, "the console to finish printing"))
        self.poll()
        self._scanner.finish()
        return self.new_findings()

    def has_said(self, word: str) -> bool:
        """Whether the last poll had seen a line `fpr-init: WORD`."""
        return word in self._scanner.said

    def count(self, words: str) -> int:
        """Count the occurrences of a text on the console so far."""
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_BYTES).count(words.encode())
        except OSError:
            return 0

    def overflow(self) -> GuestError | None:
        """Return an error if the guest wrote more than `MAX_BYTES` on its console."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return None  # `poll` raises if the file was deleted
        if size <= MAX_BYTES:
            return None
        return GuestError(
            f"the guest wrote more than {format_size(MAX_BYTES)} on its console",
            hint="see console.log for what it repeats; a quieter guest.cmdline may help",
            evidence=[self.path],
        )

    @property
    def init_failure(self) -> str | None:
        """What the guest's init failed to do, as of the last poll; None if nothing."""
        return self._scanner.said.get("FAILED")

    def tail(self, lines: int = 8) -> str:
        """Return the last lines for an error message."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8 * LINE_BYTES))
                text = file.read(8 * LINE_BYTES).decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line.rstrip() for line in text.splitlines()[-lines:])
