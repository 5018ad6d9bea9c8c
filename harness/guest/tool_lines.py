# SPDX-License-Identifier: Apache-2.0
"""Reads the guest tool's standard output: lines `word key=value ...`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, SshError
from harness.guest.tool_end import crash_of, last_words
from harness.machine.interfaces import GuestProcess


@dataclass(frozen=True)
class ToolLine:
    """One line of output."""

    text: str

    @property
    def word(self) -> str:
        """The first word, which names the kind of line."""
        return self.text.partition(" ")[0]

    def value(self, key: str) -> float:
        """Return the number of `key`. Raises `GuestError` if the line has none."""
        match = re.search(rf" {key}=(\d{{1,20}}(?:\.\d{{1,20}})?)(?: |$)", self.text)
        if match is None:
            raise GuestError(
                f"the guest tool printed {self.text!r:.200}, without a number for `{key}`"
            )
        return float(match[1])


@dataclass(frozen=True)
class ToolOutput:
    """The lines of one process of the guest tool."""

    process: GuestProcess
    name: str
    """Its name in messages, such as `the churn tool`."""
    hint: str = ""
    """What to do if it ends while it is needed."""

    def send(self, command: str) -> None:
        """Send a command. Raises `GuestError`, `SshError`."""
        try:
            self.process.write(f"{command}\n".encode())
        except SshError as error:
            raise self.death(error) from error

    def await_line(
        self, word: str, timeout: float, note: Callable[[ToolLine], None] = lambda _line: None
    ) -> ToolLine:
        """Wait for the next line that begins with `word`; pass the lines before it to `note`.

        Raises `GuestError` if the tool ended, `ToolCrashedError` if it crashed, `SshError`, and
        `DeadlineError` after `timeout` seconds at usual pace.
        """
        deadline = Deadline(timeout * self.process.pace, f"{self.name} to say `{word}`")
        while True:
            try:
                with deadline.covering():
                    line = ToolLine(self.process.read_line(deadline.remaining))
            except SshError as error:
                raise self.death(error) from error
            if line.word == word:
                return line
            note(line)
            deadline.check(line.text)

    def death(self, error: SshError) -> HarnessError:
        """Make the error to raise: a `GuestError` if the tool ended, otherwise `error` itself."""
        words = last_words(self.process, error)
        if words is None:
            return error
        return crash_of(words) or GuestError(
            f"{self.name} ended unexpectedly: {words}", hint=self.hint
        )
