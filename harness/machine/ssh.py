# SPDX-License-Identifier: Apache-2.0
"""Commands in the guest over one SSH connection, every wait with a deadline."""

import contextlib
import functools
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import paramiko

from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, SshError
from harness.machine.gone import Gone, gone_soon
from harness.machine.interfaces import CommandResult
from harness.machine.keys import RunKeys

LOOK_SECONDS = 0.25
"""How often a waiting read looks whether QEMU is still there."""

OPEN_SECONDS = 10.0
"""For a channel and a command to be accepted: two round trips to a guest under load."""

GRACE_SECONDS = 2.0
"""For a command to end by itself when its input has ended."""

KILLED = -1
"""Status of a command that a signal ended: by RFC 4254 it has none."""

CHUNK = 1 << 16

OUTPUT_BYTES = 8 << 20
"""What a command may print unless its caller allows less: /proc of the largest guest is shorter."""

LINE_BYTES = 1 << 16
"""The longest line that is waited for."""

ERROR_BYTES = 1 << 16
"""Kept of standard error: its last words."""

WINDOW_BYTES = 1 << 21
"""What a channel holds at most before it is read (paramiko's DEFAULT_WINDOW_SIZE)."""

HANDSHAKE_BYTES = 1 << 20
"""What the guest's server may send before the harness is logged in; it takes about 3 KiB."""

T = TypeVar("T")

LOG = logging.getLogger(__name__)

# What matters of its log comes as an exception; without a handler Python prints it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

# Under emulation the cheapest wins: AES has no instructions there, so the shortest key, and the
# guest's curve is computed once.
_CIPHERS = ("aes128-ctr",)
_DIGESTS = ("hmac-sha2-256",)
_EXCHANGES = ("curve25519-sha256@libssh.org",)


class _CountedSocket:
    """A socket of which only so much is read until it is trusted.

    paramiko waits for the end of the server's greeting without a limit (packet.py, `readline`).
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = HANDSHAKE_BYTES
        self.trusted = False

    def recv(self, size: int) -> bytes:
        """Raises `OSError` beyond the limit."""
        data = self._connection.recv(size)
        if not self.trusted:
            self._left -= len(data)
            if self._left < 0:
                raise OSError(f"the guest sent over {HANDSHAKE_BYTES} bytes before a log-in")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class SshShell:
    """The one connection.

    A guest that says more than it was asked for raises `GuestError`, however fast it says it.
    """

    def __init__(self, port: int, keys: RunKeys, gone: Gone, deadline: Deadline) -> None:
        self._gone = gone
        self._transport = self._connect(port, keys, deadline)

    def _connect(self, port: int, keys: RunKeys, deadline: Deadline) -> paramiko.Transport:
        with contextlib.ExitStack() as undo:
            try:
                connection = socket.create_connection(("127.0.0.1", port), deadline.remaining)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                counted = _CountedSocket(connection)
                transport = paramiko.Transport(cast(socket.socket, counted))
                undo.callback(transport.close)
                options = transport.get_security_options()
                options.ciphers, options.digests, options.kex = _CIPHERS, _DIGESTS, _EXCHANGES
                transport.banner_timeout = transport.auth_timeout = max(1.0, deadline.remaining)
                transport.start_client(timeout=max(1.0, deadline.remaining))
                _check_host_key(transport.get_remote_server_key(), keys)
                client = paramiko.Ed25519Key(file_obj=io.StringIO(keys.client_pem))
                transport.auth_publickey("root", client)
                counted.trusted = True
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise self._gone() or SshError(
                    f"cannot log in to the guest over SSH: {error or type(error).__name__}",
                    hint="see console.log: is the guest's SSH server up?",
                ) from error
            undo.pop_all()
        return transport

    def start(self, command: str) -> "SshProcess":
        """Start and leave running. Raises `SshError`, `DeadlineError`, or QEMU's own end."""
        return self._start(command, Deadline(OPEN_SECONDS, f"`{command}` to start in the guest"))

    def _start(self, command: str, deadline: Deadline) -> "SshProcess":
        channel: paramiko.Channel | None = None
        LOG.debug("in the guest, at most %.1f s: %s", deadline.remaining, command)

        # paramiko's wait for the answer to exec has no deadline of its own; closing wakes it, and
        # says goodbye over a connection that may be broken.
        def give_up() -> None:
            if channel is not None:
                with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                    channel.close()

        watchdog = threading.Timer(deadline.remaining, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            channel = self._transport.open_session(timeout=max(0.001, deadline.remaining))
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if deadline.passed and self._transport.is_active():
                raise deadline.error() from error
            raise broken(self._gone, f"starting `{command}`", error) from error
        finally:
            watchdog.cancel()
        return SshProcess(channel, command, self._gone)

    def run(
        self,
        command: str,
        *,
        timeout: float = 10.0,
        stdin: bytes = b"",
        check: bool = True,
        limit: int = OUTPUT_BYTES,
    ) -> CommandResult:
        """Run to the end. With `check` a status other than 0 raises `GuestError`, and so does
        output of more than `limit` bytes in any case.

        Raises like `start`; `timeout` is for all of it.
        """
        began = time.monotonic()
        deadline = Deadline(timeout, f"`{command}` in the guest")
        with self._start(command, deadline) as process:
            if stdin:
                process.write(stdin, deadline.remaining)
            process.close_stdin()
            result = process.wait(deadline.remaining, limit)
        LOG.debug(
            "after %.3f s in the guest (%s, %d bytes of output): %s",
            time.monotonic() - began,
            _how(result.status),
            len(result.stdout),
            command.strip().partition("\n")[0],
        )
        if check and result.status != 0:
            words = result.stderr.decode(errors="replace").strip()
            raise GuestError(f"`{command}` in the guest failed ({_how(result.status)}): {words}")
        return result

    def close(self) -> None:
        """Drop the connection; never raises."""
        with contextlib.suppress(Exception):
            self._transport.close()


class SshProcess:
    """A command running in the guest over a channel of its own."""

    def __init__(self, channel: paramiko.Channel, command: str, gone: Gone) -> None:
        self._channel = channel
        self._command = command
        self._gone = gone
        self._buffer = bytearray()
        self._stderr = bytearray()

    def write(self, data: bytes, timeout: float = OPEN_SECONDS) -> None:
        """Send to its standard input. Raises `SshError`, `DeadlineError` if it does not read."""
        deadline = Deadline(timeout, f"`{self._command}` to read {len(data)} bytes")
        sent = 0
        while sent < len(data):
            send = functools.partial(self._channel.send, data[sent : sent + CHUNK])
            sent += self._poll(send, deadline, reading=False)

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """`size` bytes of output. Raises `SshError` if it ends first, `DeadlineError`."""
        deadline = Deadline(timeout, f"{size} bytes of `{self._command}`")
        while len(self._buffer) < size:
            self._buffer += self._receive(deadline) or self._ended()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, timeout: float) -> str:
        """A line without its end. Raises like `read_exactly`, and `GuestError` if it is longer than
        `LINE_BYTES`."""
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
        """End its standard input."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def wait(self, timeout: float, limit: int = OUTPUT_BYTES) -> CommandResult:
        """Its status and unread output. Raises `DeadlineError`, `SshError`, and `GuestError` for
        output of more than `limit` bytes."""
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
        """End it: its input ends, and a moment later the channel is closed; never raises.

        The moment matters: dropbear 2022.83 now and then drops the whole connection when a channel
        is closed while its command still runs.
        """
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()
            self._channel.status_event.wait(GRACE_SECONDS)
            self._channel.close()

    def _receive(self, deadline: Deadline) -> bytes:
        """The next bytes of output; empty at its end."""
        return self._poll(lambda: self._channel.recv(CHUNK), deadline, reading=True)

    def _drain_stderr(self, deadline: Deadline) -> None:
        while chunk := self._poll(lambda: self._channel.recv_stderr(CHUNK), deadline, reading=True):
            self._keep_stderr(chunk)

    def _poll(self, attempt: Callable[[], T], deadline: Deadline, *, reading: bool) -> T:
        """What `attempt` gives; the deadline runs whether the guest is silent or not."""
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
                raise broken(self._gone, f"using `{self._command}`", error) from error

    def _take_aside(self, *, output: bool) -> None:
        """Take in what nobody reads just now, or the channel's window fills and all stands."""
        if self._channel.recv_stderr_ready():
            self._keep_stderr(self._channel.recv_stderr(WINDOW_BYTES))
        if output and self._channel.recv_ready():
            self._buffer += self._channel.recv(WINDOW_BYTES)
            if len(self._buffer) > OUTPUT_BYTES:
                raise self._too_much(f"more than {OUTPUT_BYTES} bytes that nobody asked for")

    def _keep_stderr(self, data: bytes) -> None:
        self._stderr += data
        del self._stderr[:-ERROR_BYTES]

    def _last_words(self) -> str:
        return bytes(self._buffer[-200:]).decode(errors="replace")

    def _too_much(self, what: str) -> GuestError:
        return GuestError(
            f"`{self._command}` in the guest printed {what}; it began: "
            f"{bytes(self._buffer[:80])!r}",
            hint="is the guest's shell or tool what the image was built with?",
        )

    def _ended(self) -> bytes:
        """The command has closed its output though more was expected: say what it said."""
        self._drain_stderr(Deadline(5.0, "its last words"))
        words = self._stderr.decode(errors="replace").strip() or "nothing on stderr"
        self._channel.status_event.wait(GRACE_SECONDS)
        status = _how(self._status(words))
        raise SshError(f"`{self._command}` in the guest ended early ({status}): {words}")

    def _status(self, words: str) -> int:
        """How the command ended. Raises `SshError`, or QEMU's own end, if only the channel did.

        The server's end of file tells a command that a signal ended from a connection that broke.
        """
        channel = self._channel
        if channel.exit_status >= 0:
            return channel.exit_status
        if channel.eof_received and channel.get_transport().is_active() and not self._gone():
            return KILLED
        raise broken(self._gone, f"using `{self._command}`", EOFError(words))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _how(status: int) -> str:
    return "killed by a signal" if status == KILLED else f"status {status}"


def _check_host_key(seen: paramiko.PKey, keys: RunKeys) -> None:
    if seen.asbytes() != keys.host_public:
        raise SshError(
            "the guest shows another host key than the one made for it",
            hint="something else answers on the forwarded port; nothing was sent to it",
        )


def broken(gone: Gone, doing: str, error: BaseException) -> HarnessError:
    """Why the connection failed while `doing`: QEMU's end, if that is it."""
    return gone_soon(gone) or SshError(
        f"the SSH connection broke while {doing}: {error or type(error).__name__}",
        hint="QEMU still runs: see console.log",
    )
