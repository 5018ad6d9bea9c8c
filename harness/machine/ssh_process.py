# SPDX-License-Identifier: Apache-2.0
"""A command in the guest over one SSH channel, with limits on its output and on every wait."""

import contextlib
import functools
from collections.abc import Callable
from typing import TypeVar

import paramiko

from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, SshError
from harness.machine.gone import Gone, gone_soon
from harness.machine.interfaces import CommandResult

LOOK_SECONDS = 0.25
"""Interval at which a waiting read checks whether QEMU still runs."""

OPEN_SECONDS = 10.0
"""Time for a channel and a command to be accepted, two round trips to a guest under load."""

GRACE_SECONDS = 2.0
"""Time for a command to end by itself once its input is closed."""

KILLED = -1
"""Status given to a command that a signal ended, which has none in RFC 4254."""

CHUNK = 1 << 16

OUTPUT_BYTES = 8 << 20
"""Default limit of a command's output, longer than any file in /proc that is read."""

LINE_BYTES = 1 << 16
"""The longest line that is accepted."""

ERROR_BYTES = 1 << 16
"""Bytes kept of the end of standard error."""

WINDOW_BYTES = 1 << 21
"""The most that a channel holds unread (paramiko's DEFAULT_WINDOW_SIZE)."""

T = TypeVar("T")


class SshProcess(Closing):
    """A command running in the guest over its own channel."""

    def __init__(
        self, channel: paramiko.Channel, command: str, gone: Gone, pace: float = 1.0
    ) -> None:
        self.pace = pace
        self._channel = channel
        self._command = command
        self._gone = gone
        self._buffer = bytearray()
        self._stderr = bytearray()

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Write to its standard input. Raises `SshError`, `DeadlineError` if it does not read."""
        seconds = OPEN_SECONDS * self.pace if timeout is None else timeout
        deadline = Deadline(seconds, f"`{self._command}` to read {len(data)} bytes")
        sent = 0
        while sent < len(data):
            send = functools.partial(self._channel.send, data[sent : sent + CHUNK])
            sent += self._poll(send, deadline, reading=False)

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """Read `size` bytes of output. Raises `SshError` if it ends first, `DeadlineError`."""
        deadline = Deadline(timeout, f"{size} bytes of `{self._command}`")
        while len(self._buffer) < size:
            self._buffer += self._receive(deadline) or self._ended()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, timeout: float) -> str:
        """Read a line and return it without its line end.

        Raises like `read_exactly`, and `GuestError` for a line longer than `LINE_BYTES`.
        """
        deadline = Deadline(timeout, f"a line of `{self._command}`")
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0 and len(self._buffer) <= LINE_BYTES:
            looked = len(self._buffer)
            self._buffer += self._receive(deadline) or self._ended()
        if not 0 <= end <= LINE_BYTES:
            raise self._too_much(f"a line of more than {LINE_BYTES} bytes")
        line = self._buffer[:end].decode(errors="replace")
        del self._buffer[: end + 1]
        return line

    def close_stdin(self) -> None:
        """Close its standard input."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def wait(self, timeout: float, limit: int = OUTPUT_BYTES) -> CommandResult:
        """Wait for its end; returns its status and unread output.

        Raises `DeadlineError`, `SshError`, and `GuestError` for output of more than `limit` bytes.
        """
        deadline = Deadline(timeout, f"`{self._command}` in the guest to end")
        while chunk := self._receive(deadline):
            self._buffer += chunk
            if len(self._buffer) > limit:
                raise self._too_much(f"more than {limit} bytes")
        self._drain_stderr(deadline)
        while not self._channel.status_event.wait(min(LOOK_SECONDS, deadline.remaining)):
            if gone := self._gone():
                raise gone
            deadline.check()
        status = self._status("no exit status")
        output, stderr = bytes(self._buffer), bytes(self._stderr)
        self._buffer.clear()
        return CommandResult(self._command, status, output, stderr)

    def close(self) -> None:
        """Close its input, give it time to end, and close the channel; never raises.

        dropbear 2022.83 sometimes drops the whole connection when a channel is closed while its
        command still runs.
        """
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()
            self._channel.status_event.wait(GRACE_SECONDS)
            self._channel.close()

    def _receive(self, deadline: Deadline) -> bytes:
        """Return the next bytes of output, or none at its end."""
        return self._poll(lambda: self._channel.recv(CHUNK), deadline, reading=True)

    def _drain_stderr(self, deadline: Deadline) -> None:
        while chunk := self._poll(lambda: self._channel.recv_stderr(CHUNK), deadline, reading=True):
            self._keep_stderr(chunk)

    def _poll(self, attempt: Callable[[], T], deadline: Deadline, *, reading: bool) -> T:
        """Repeat `attempt` until it succeeds or the deadline passes; returns its result."""
        while True:
            deadline.check(self._last_words())
            self._channel.settimeout(max(0.001, min(LOOK_SECONDS, deadline.remaining)))
            try:
                return attempt()
            except TimeoutError:
                if gone := self._gone():
                    raise gone from None
                self._take_aside(output=not reading)
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise self._broken(error) from error

    def _take_aside(self, *, output: bool) -> None:
        """Read the stream that the caller does not wait for, so that the window cannot fill up."""
        if self._channel.recv_stderr_ready():
            self._keep_stderr(self._channel.recv_stderr(WINDOW_BYTES))
        if output and self._channel.recv_ready():
            self._buffer += self._channel.recv(WINDOW_BYTES)
            if len(self._buffer) > OUTPUT_BYTES:
                raise self._too_much(f"more than {OUTPUT_BYTES} bytes that were not asked for")

    def _keep_stderr(self, data: bytes) -> None:
        self._stderr += data
        del self._stderr[:-ERROR_BYTES]

    def _last_words(self) -> str:
        return bytes(self._buffer[-200:]).decode(errors="replace")

    def _too_much(self, what: str) -> GuestError:
        return GuestError(
            f"`{self._command}` in the guest printed {what}; it began: "
            f"{bytes(self._buffer[:80])!r}",
            hint="check that the guest's shell and tool are those of the image",
        )

    def _ended(self) -> bytes:
        """Raise `SshError` for a command that ended before its expected output was complete."""
        self._drain_stderr(Deadline(5.0, "its standard error"))
        words = self._stderr.decode(errors="replace").strip() or "nothing on stderr"
        self._channel.status_event.wait(GRACE_SECONDS)
        status = how(self._status(words))
        raise SshError(f"`{self._command}` in the guest ended early ({status}): {words}")

    def _status(self, words: str) -> int:
        """Return the command's status. Raises `SshError`, `QemuGoneError` if the connection broke.

        If there is no status but an end of file, a signal ended the command.
        """
        channel = self._channel
        if channel.exit_status >= 0:
            return channel.exit_status
        if channel.eof_received and channel.get_transport().is_active() and not self._gone():
            return KILLED
        raise self._broken(EOFError(words))

    def _broken(self, error: BaseException) -> HarnessError:
        doing = f"using `{self._command}`"
        return broken(self._gone, doing, error, self._channel.get_transport())


def how(status: int) -> str:
    return "killed by a signal" if status == KILLED else f"status {status}"


def broken(
    gone: Gone, doing: str, error: BaseException, transport: paramiko.Transport
) -> HarnessError:
    """Make the error for a connection that failed while `doing`; QEMU's end takes precedence.

    What a command sees is that its channel is closed; the connection's own thread knows why.
    """
    why = transport.saved_exception
    ended = why or ("" if transport.is_active() else "the guest closed it")
    words = "; ".join(filter(None, (str(error), str(ended)))) or type(error).__name__
    return gone_soon(gone) or SshError(
        f"the SSH connection broke while {doing}: {words}",
        hint="QEMU still runs; see console.log",
    )
