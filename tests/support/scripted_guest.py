# SPDX-License-Identifier: Apache-2.0
"""A fake guest whose tool's output is fixed in advance."""

from types import TracebackType
from typing import Self

from harness.deadline import Deadline
from harness.errors import DeadlineError, GuestError, HarnessError, SshError
from harness.machine.interfaces import CommandResult


class ScriptedGuest:
    """Shell and process in one: any command prints `output` once and ends with `status`.

    `broken`: what the connection raises instead, if the connection broke.
    """

    pace = 1.0

    def __init__(
        self,
        output: bytes,
        *,
        stderr: bytes = b"",
        status: int = 0,
        broken: HarnessError | None = None,
    ) -> None:
        self._output = output
        self._stderr = stderr
        self._status = status
        self._broken = broken
        self.commands: list[str] = []
        self.written = b""
        self.closed = False

    def start(self, command: str) -> "ScriptedGuest":
        self.commands.append(command)
        return self

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        del stdin
        result = self.start(command).wait(timeout)
        if check and result.status:
            raise GuestError(f"`{command}` failed")
        return result

    def write(self, data: bytes) -> None:
        self.written += data

    def read_exactly(self, size: int, timeout: float) -> bytes:
        if len(self._output) < size:
            raise SshError("the command ended early")
        data, self._output = self._output[:size], self._output[size:]
        if timeout <= 0.0 and not data:
            raise Deadline(timeout, f"{size} bytes").error()
        return data

    def read_line(self, timeout: float) -> str:
        raise NotImplementedError(timeout)

    def close_stdin(self) -> None:
        pass

    def wait(self, timeout: float) -> CommandResult:
        if self._broken is not None:
            raise self._broken
        if timeout <= 0.0:
            raise DeadlineError("no time to wait")
        return CommandResult(self.commands[-1], self._status, self._output, self._stderr)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LineGuest(ScriptedGuest):
    """A guest whose tool prints lines and ends after the last."""

    def read_line(self, timeout: float) -> str:
        del timeout
        line, _, self._output = self._output.partition(b"\n")
        if not line and not self._output:
            raise HarnessError("the tool has ended")
        return line.decode(errors="replace")
