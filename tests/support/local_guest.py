# SPDX-License-Identifier: Apache-2.0
"""Runs the guest tool on this host, behind the interfaces through which the harness reaches a
guest."""

import contextlib
import os
import select
import shlex
import subprocess
import tempfile
from pathlib import Path

from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import GuestError, SshError
from harness.machine.interfaces import CommandResult

GRACE_SECONDS = 5.0


class LocalProcess(Closing):
    """The tool running here; it ends and raises like a command in a guest."""

    pace = 1.0

    def __init__(self, argv: list[str], command: str, user: int | None) -> None:
        self._command = command
        self._buffer = bytearray()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            user=user,
            env={**os.environ, "LC_ALL": "C"},
        )
        self.pid = self._process.pid

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError as error:
            raise SshError(f"writing to `{self._command}`: {error}") from error

    def read_exactly(self, size: int, timeout: float) -> bytes:
        deadline = Deadline(timeout, f"{size} bytes of `{self._command}`")
        while len(self._buffer) < size:
            self._buffer += self._receive(deadline) or self._ended()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, timeout: float) -> str:
        deadline = Deadline(timeout, f"a line of `{self._command}`")
        while (end := self._buffer.find(b"\n")) < 0:
            self._buffer += self._receive(deadline) or self._ended()
        line = self._buffer[:end].decode(errors="replace")
        del self._buffer[: end + 1]
        return line

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout: float) -> CommandResult:
        deadline = Deadline(timeout, f"`{self._command}` to end")
        while chunk := self._receive(deadline):
            self._buffer += chunk
        try:
            status = self._process.wait(deadline.remaining)
        except subprocess.TimeoutExpired as error:
            raise deadline.error() from error
        output = bytes(self._buffer)
        self._buffer.clear()
        return CommandResult(self._command, status, output, self._words())

    def kill(self) -> None:
        """Kill the tool's first process with SIGKILL."""
        self._process.kill()

    def close(self) -> None:
        """End the tool by closing its input, or by force if that does not end it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _receive(self, deadline: Deadline) -> bytes:
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], deadline.remaining)[0]:
            raise deadline.error(self._words().decode(errors="replace"))
        return os.read(output.fileno(), 1 << 20)

    def _ended(self) -> bytes:
        status = self._process.wait(GRACE_SECONDS)
        words = self._words().decode(errors="replace").strip()
        raise SshError(f"`{self._command}` ended early (status {status}): {words}")

    def _words(self) -> bytes:
        return os.pread(self._stderr.fileno(), 1 << 16, 0)


class LocalShell:
    """A shell that runs only `fpr-guest ...`, as another `user` if root names one."""

    pace = 1.0

    def __init__(self, tool: Path, user: int | None = None) -> None:
        self._tool = tool
        self._user = user

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        with self.start(command) as process:
            if stdin:
                process.write(stdin)
            process.close_stdin()
            result = process.wait(timeout)
        if check and result.status:
            raise GuestError(f"`{command}` failed: {result.stderr!r}")
        return result

    def start(self, command: str) -> LocalProcess:
        # What the guest's shell does before it becomes the tool is for a guest only.
        name, *arguments = shlex.split(command.rpartition("exec ")[2])
        assert name == "fpr-guest", command
        return LocalProcess([str(self._tool), *arguments], command, self._user)
