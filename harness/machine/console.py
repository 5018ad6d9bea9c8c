# SPDX-License-Identifier: Apache-2.0
"""Watches a guest's console for trouble: a scanner of text, and a watcher of the growing file.

QEMU writes the file itself, so a flooded or forgotten console never stops the guest.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError

Severity = Literal["crash", "hang", "warning"]

EXCERPT_LINES = 60
"""An oops with registers, code and call trace is about 50 lines."""

LINE_BYTES = 4096
"""Longer lines are cut: the kernel's own are at most 1 KiB (LOG_LINE_MAX)."""

READ_BYTES = 1 << 20
FINAL_SECONDS = 2.0

_STAMP = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\](?:\[[\sCT]*\d+\])? ?")
_ADDRESS = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+( \[\w+\])?|\b(?:0x)?[0-9a-f]{12,16}\b")
_PLACE = re.compile(r"^RIP: [0-9a-f]{4}:([A-Za-z_][\w.]*)\+")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|^fpr-init: ")

# First match wins. What each begins with stands in the kernel's sources: lib/bug.c,
# arch/x86/kernel/dumpstack.c and mm/fault.c, kernel/panic.c, kernel/watchdog.c,
# kernel/hung_task.c, kernel/rcu/tree_stall.h, mm/oom_kill.c, kernel/locking/lockdep.c,
# lib/list_debug.c, mm/kasan/report.c, lib/ubsan.c, mm/kfence/report.c.
_PATTERNS: tuple[tuple[Severity, re.Pattern[str]], ...] = (
    ("hang", re.compile(r"watchdog: BUG: soft lockup|Watchdog detected hard LOCKUP")),
    ("hang", re.compile(r"INFO: task .* blocked for more than")),
    ("hang", re.compile(r"rcu: INFO: .* (?:detected stalls|self-detected stall|expedited stalls)")),
    ("crash", re.compile(r"^Kernel panic - not syncing")),
    ("crash", re.compile(r"^BUG: (?!.*(?:workqueue lockup))")),
    ("hang", re.compile(r"^BUG: workqueue lockup")),
    ("crash", re.compile(r"^Oops: |^general protection fault|^kernel BUG at |^invalid opcode:")),
    ("crash", re.compile(r"^(?:double fault|divide error|stack segment|int3): 0000")),
    ("crash", re.compile(r"^list_(?:add|del) corruption|^kernel tried to execute")),
    ("warning", re.compile(r"^WARNING: (?!.*Spectre|.*KVM)")),
    ("warning", re.compile(r"^UBSAN: |^INFO: (?:possible|inconsistent|trying|suspicious)")),
    ("warning", re.compile(r"page allocation failure:|^Bad (?:page|rss-counter) ")),
    ("warning", re.compile(r"^Out of memory: Killed process|^Memory cgroup out of memory")),
    ("crash", re.compile(r"^fpr-init: FAILED")),
)


@dataclass(frozen=True)
class Finding:
    """One kind of trouble, at its first occurrence."""

    severity: Severity
    title: str
    """Without addresses and time, so that the same trouble has the same title."""
    text: str


@dataclass
class _Open:
    """A finding whose text still grows."""

    severity: Severity
    title: str
    lines: list[str]


class ConsoleScanner:
    """Finds trouble in console text fed to it in pieces of any size."""

    def __init__(self) -> None:
        self._partial = b""
        self._open: _Open | None = None
        self._seen: set[str] = set()

    @property
    def in_the_middle(self) -> bool:
        """Whether a finding's text is still being read."""
        return self._open is not None

    def feed(self, data: bytes) -> Iterator[Finding]:
        """The findings completed by `data`."""
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[:LINE_BYTES]
        for line in lines:
            text = line[:LINE_BYTES].decode("utf-8", errors="replace").rstrip("\r")
            yield from self._line(_STAMP.sub("", text))

    def finish(self) -> Iterator[Finding]:
        """What was still open when the console ended."""
        if self._partial:
            yield from self.feed(b"\n")
        yield from self._close()

    def _line(self, line: str) -> Iterator[Finding]:
        match = next(((sev, p) for sev, p in _PATTERNS if p.search(line)), None)
        if self._open is not None:
            # A panic after an oops belongs to it: one trouble, one finding.
            self._open.lines.append(line)
            if place := _PLACE.match(line):
                self._open.title = _with_place(self._open.title, place[1])
            if _END.search(line) or len(self._open.lines) >= EXCERPT_LINES:
                yield from self._close()
        elif match is not None:
            self._open = _Open(match[0], _title(line), [line])
            if line.startswith(("Out of memory", "fpr-init")):
                yield from self._close()

    def _close(self) -> Iterator[Finding]:
        if self._open is None:
            return
        found, self._open = self._open, None
        if found.title not in self._seen:
            self._seen.add(found.title)
            yield Finding(found.severity, found.title, "\n".join(found.lines))


def _title(line: str) -> str:
    title = _ADDRESS.sub("", line)
    title = re.sub(r"\s+", " ", re.sub(r"\[#\d+\].*|CPU: ?\d+|PID: ?\d+", "", title))
    return title.strip(" ,:")[:160]


def _with_place(title: str, function: str) -> str:
    return title if function in title or " in " in title else f"{title} in {function}"


class ConsoleWatcher:
    """Reads a console file as it grows; each finding is told once."""

    def __init__(self, path: Path, gone: Callable[[], object]) -> None:
        self._path = path
        self._gone = gone
        self._scanner = ConsoleScanner()
        self._offset = 0
        self._markers: set[str] = set()

    def new_findings(self) -> list[Finding]:
        """What was found since the last call. A file that is not there yet holds nothing."""
        findings: list[Finding] = []
        while data := self._read():
            self._note_markers(data)
            findings += self._scanner.feed(data)
        return findings

    def final_findings(self) -> list[Finding]:
        """Like `new_findings`, after giving an oops that is being printed time to end."""
        findings = self.new_findings()

        def ended() -> bool | None:
            findings.extend(self.new_findings())
            return True if self._gone() is not None or not self._scanner.in_the_middle else None

        # What there is by then will do.
        with contextlib.suppress(DeadlineError):
            wait_for(ended, Deadline(FINAL_SECONDS, "the console's last words"))
        findings.extend(self.new_findings())
        findings.extend(self._scanner.finish())
        return findings

    def has_said(self, marker: str) -> bool:
        """Whether a line `fpr-init: MARKER` has come; call `new_findings` first."""
        return marker in self._markers

    def tail(self, lines: int = 8) -> str:
        """The last lines, for an error message."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - 8 * LINE_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line.rstrip() for line in text.splitlines()[-lines:])

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except OSError:
            return b""
        self._offset += len(data)
        return data

    def _note_markers(self, data: bytes) -> None:
        self._markers.update(
            word.decode() for word in re.findall(rb"fpr-init: (start|ready|FAILED)", data)
        )
