# SPDX-License-Identifier: Apache-2.0
"""Protocols of what other rooms may ask of a running guest, small enough to fake."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """A command running in the guest over one SSH channel; each `timeout` is in real seconds."""

    @property
    def pace(self) -> float:
        """How many times longer than usual the guest may take for what it is asked."""

    def write(self, data: bytes) -> None:
        """Write to its standard input. Raises `SshError`."""

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """Read `size` bytes of output. Raises `SshError` on end of file, `DeadlineError`."""

    def read_line(self, timeout: float) -> str:
        """Read one line and return it without its line end. Raises like `read_exactly`."""

    def close_stdin(self) -> None:
        """Close its standard input."""

    def wait(self, timeout: float) -> CommandResult:
        """Wait for its end; returns its status and unread output.

        Raises `DeadlineError`, `SshError`.
        """

    def close(self) -> None:
        """End the command in any state; never raises."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class GuestShell(Protocol):
    """Runs commands in the guest over its SSH connection; each `timeout` is for a usual pace."""

    @property
    def pace(self) -> float:
        """How many times longer than usual the guest may take to answer."""

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        """Run a command to its end. With `check`, a status other than 0 raises `GuestError`."""

    def start(self, command: str) -> GuestProcess:
        """Start a command and return without waiting. Raises `SshError`."""


class Monitor(Protocol):
    """Synchronous QMP with a timeout on every command."""

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """Execute a command and return its `return` member. Raises `QmpError`."""

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Execute an HMP command (`human-monitor-command`), return its text. Raises `QmpError`."""


class Traced(Protocol):
    """A QEMU that instruments can be opened on."""

    @property
    def pid(self) -> int:
        """QEMU's process id."""

    @property
    def monitor(self) -> Monitor:
        """QEMU's QMP monitor."""

    @property
    def discard_log(self) -> Path:
        """The file of its trace of discards."""

    @property
    def untraced(self) -> str:
        """Why QEMU does not trace discards; empty if it does."""

    @property
    def qemu_log(self) -> Path:
        """The file of its error messages."""
