# SPDX-License-Identifier: Apache-2.0
"""Read what the guest's kernel has logged, whether or not its console shows it.

`quiet` and `loglevel=` on the command line, or dmesg -n, keep warnings off the console. The log
holds them all the same, but it has a limited size, and loses its beginning.
"""

import re
from dataclasses import dataclass

from harness.errors import GuestError, ObserveError
from harness.machine.console import ConsoleScanner, Finding
from harness.machine.interfaces import GuestShell

SHOWN_LEVEL = 5
"""The console log level from which warnings reach the console: KERN_WARNING is 4, and what is below
the level is shown (include/linux/kern_levels.h, kernel/printk/printk.c)."""

HEAR_ALL = (
    "read level rest </proc/sys/kernel/printk; [ $level -gt 6 ] || echo 7 >/proc/sys/kernel/printk"
)
HEAR_AS_BEFORE = "echo $level >/proc/sys/kernel/printk"
"""For a shell of the guest: show even KERN_INFO on the console, and what it showed before."""

BEGINNING_LINES = 20
"""Lines within which a whole log has the kernel's banner, its first line since 5.10."""

_COMMAND = "cat /proc/sys/kernel/printk && dmesg"
_BANNER = re.compile(r"(?:^|\] )Linux version \d")


@dataclass(frozen=True)
class KernelLog:
    """The log of the running kernel, of all boots the latest."""

    console_level: int
    text: bytes

    @property
    def whole(self) -> bool:
        """Whether it still has its beginning."""
        head = self.text.split(b"\n", BEGINNING_LINES)[:BEGINNING_LINES]
        return any(_BANNER.search(line.decode(errors="replace")) for line in head)

    @property
    def on_console(self) -> bool:
        """Whether the console shows warnings, as far as its present level tells."""
        return self.console_level >= SHOWN_LEVEL

    def findings(self) -> list[Finding]:
        """Find trouble in it, each title once."""
        scanner = ConsoleScanner()
        scanner.feed(self.text)
        scanner.finish()
        return scanner.findings


def read_kernel_log(shell: GuestShell) -> KernelLog:
    """Read the log. Raises `SshError`, `DeadlineError`, and `ObserveError` if it cannot be read."""
    try:
        answer = shell.run(_COMMAND, check=False)
    except GuestError as error:
        raise ObserveError(f"the guest's kernel log cannot be read: {error.message}") from error
    level, _, text = answer.stdout.partition(b"\n")
    words = level.split()
    if answer.status or not words or not words[0].isdigit():
        said = answer.stderr.decode(errors="replace").strip() or f"it begins with {level[:80]!r}"
        raise ObserveError(f"the guest's kernel log cannot be read: {said}")
    return KernelLog(int(words[0]), text)


def all_findings(log: KernelLog) -> list[Finding]:
    """Return the trouble in a log.

    Raises `ObserveError` if neither the log nor the console has all that the kernel said.
    """
    if not log.whole and not log.on_console:
        raise ObserveError(
            "the guest keeps its kernel's warnings off the console (console log level "
            f"{log.console_level}), and its kernel's log has lost its beginning",
            hint="leave `quiet` and `loglevel=` out of guest.cmdline, or give the log more room "
            "with log_buf_len=4M",
        )
    return log.findings()
