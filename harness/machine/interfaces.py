# SPDX-License-Identifier: Apache-2.0
"""What the rooms to the left may ask of a running guest: small enough to fake."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class CommandResult:
    """A finished command in the guest."""

    command: str
    status: int
    stdout: bytes
    stderr: bytes


class GuestProcess(Protocol):
    """A command running in the guest over one SSH channel."""

    def write(self, data: bytes) -> None:
        """Send to its standard input. Raises SshError."""

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """`size` bytes of its standard output. Raises SshError on EOF, DeadlineError in time."""

    def read_line(self, timeout: float) -> str:
        """One line without its end; raises like `read_exactly`. EOF raises SshError with stderr."""

    def close_stdin(self) -> None:
        """End its standard input."""

    def wait(self, timeout: float) -> CommandResult:
        """Its exit status and whatever output was not read. Raises DeadlineError, SshError."""

    def close(self) -> None:
        """End it, however it is; never raises."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class GuestShell(Protocol):
    """Commands in the guest over the one SSH connection."""

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        """Run to the end. With `check`, a status other than 0 raises GuestError with stderr."""

    def start(self, command: str) -> GuestProcess:
        """Start and leave running. Raises SshError."""


class Monitor(Protocol):
    """QMP, synchronously, with a deadline on every command."""

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """The command's `return` member. Raises QmpError."""

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """An HMP command through `human-monitor-command`. Raises QmpError."""
