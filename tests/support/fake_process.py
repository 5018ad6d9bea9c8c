# SPDX-License-Identifier: Apache-2.0
"""A fake process in the guest, with scripted output."""

from collections.abc import Callable

from harness.closing import Closing
from harness.errors import SshError
from harness.machine.interfaces import CommandResult


class FakeProcess(Closing):
    """Has printed `said`, answers input with `reply`, and ends with `status`."""

    pace = 1.0

    def __init__(
        self,
        said: bytes | str = b"",
        *,
        reply: Callable[[str], bytes | str] = lambda _text: b"",
        status: int = 0,
        stderr: str = "",
    ) -> None:
        self.written: list[str] = []
        self.closed = False
        self.timeouts: list[float] = []
        """The timeouts of the lines read."""
        self._said = said.encode() if isinstance(said, str) else said
        self._reply = reply
        self._end = CommandResult("", status, b"", stderr.encode())

    def write(self, data: bytes) -> None:
        if self.closed:
            raise SshError("the channel is closed")
        self.written.append(data.decode())
        reply = self._reply(data.decode())
        self._said += reply.encode() if isinstance(reply, str) else reply

    def read_exactly(self, size: int, timeout: float) -> bytes:
        del timeout
        if len(self._said) < size:
            raise SshError("the command ended early")
        data, self._said = self._said[:size], self._said[size:]
        return data

    def read_line(self, timeout: float) -> str:
        self.timeouts.append(timeout)
        line, end, rest = self._said.partition(b"\n")
        if not end:
            raise SshError("the command ended early")
        self._said = rest
        return line.decode()

    def close_stdin(self) -> None:
        self.write(b"")

    def wait(self, timeout: float) -> CommandResult:
        del timeout
        return self._end

    def close(self) -> None:
        self.closed = True
