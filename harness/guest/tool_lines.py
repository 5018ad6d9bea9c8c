# SPDX-License-Identifier: Apache-2.0
"""What the guest tool says on its standard output: lines `word key=value ...`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, SshError
from harness.guest.tool_end import crash_of, last_words
from harness.machine.interfaces import GuestProcess


@dataclass(frozen=True)
class ToolLine:
    """One line."""

    text: str

    @property
    def word(self) -> str:
        """What the line is about."""
        return self.text.partition(" ")[0]

    def value(self, key: str) -> float:
        """Raises `GuestError` when there is no such number."""
        match = re.search(rf" {key}=(\d{{1,20}}(?:\.\d{{1,20}})?)(?: |$)", self.text)
        if match is None:
            raise GuestError(f"the guest tool said {self.text!r:.200}, without a number `{key}`")
        return float(match[1])


@dataclass(frozen=True)
class ToolOutput:
    """The lines of one process of the guest tool."""

    process: GuestProcess
    name: str
    """What the process is called in messages: `the churn tool`."""
    hint: str = ""
    """What to do when it ended while it was needed."""

    def send(self, command: str) -> None:
        """Give it a command. Raises `GuestError`, `SshError`."""
        try:
            self.process.write(f"{command}\n".encode())
        except SshError as error:
            raise self.death(error) from error

    def await_line(
        self, word: str, timeout: float, note: Callable[[ToolLine], None] = lambda _line: None
    ) -> ToolLine:
        """The next line that begins with `word`; `note` gets the lines before it.

        Raises `GuestError` for a tool that ended, `ToolCrashedError` for one that crashed,
        `SshError`, and `DeadlineError` after `timeout` seconds.
        """
        deadline = Deadline(timeout, f"{self.name} to say `{word}`")
        while True:
            try:
                line = ToolLine(self.process.read_line(deadline.remaining))
            except SshError as error:
                raise self.death(error) from error
            if line.word == word:
                return line
            note(line)
            deadline.check(line.text)

    def death(self, error: SshError) -> HarnessError:
        """A tool that ended is the guest's doing; a broken connection is not."""
        words = last_words(self.process, error)
        if words is None:
            return error
        return crash_of(words) or GuestError(
            f"{self.name} ended while it was needed: {words}", hint=self.hint
        )
