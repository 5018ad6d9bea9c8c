# SPDX-License-Identifier: Apache-2.0
"""Run commands in the guest over one SSH connection, with a deadline on every wait."""

import contextlib
import io
import logging
import socket
import threading
import time
from typing import Any, cast

import paramiko

from harness.deadline import Deadline
from harness.errors import GuestError, SshError
from harness.machine.gone import Gone
from harness.machine.interfaces import CommandResult
from harness.machine.keys import RunKeys
from harness.machine.ssh_clock import use_steady_clock
from harness.machine.ssh_process import (
    OPEN_SECONDS,
    OUTPUT_BYTES,
    SshProcess,
    broken,
    how,
)

HANDSHAKE_BYTES = 1 << 20
"""The most that the guest may send before the harness is logged in; about 3 KiB are usual."""

LOG = logging.getLogger(__name__)

use_steady_clock()

# Errors arrive as exceptions; without a handler Python would print paramiko's log.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

# The cheapest algorithms under emulation, where AES has no hardware support.
_CIPHERS = ("aes128-ctr",)
_DIGESTS = ("hmac-sha2-256",)
_EXCHANGES = ("curve25519-sha256@libssh.org",)


class _CountedSocket:
    """A socket that limits what is read from it until it is trusted.

    paramiko reads the server's greeting without a limit (packet.py, `readline`).
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = HANDSHAKE_BYTES
        self.trusted = False

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes. Raises `OSError` beyond the limit."""
        data = self._connection.recv(size)
        if not self.trusted:
            self._left -= len(data)
            if self._left < 0:
                raise OSError(f"the guest sent over {HANDSHAKE_BYTES} bytes before the log-in")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class SshShell:
    """The SSH connection to a guest.

    Output beyond a limit raises `GuestError`, so that a guest cannot fill the host's memory.
    """

    def __init__(
        self, port: int, keys: RunKeys, gone: Gone, deadline: Deadline, *, logins: int = 1
    ) -> None:
        """Log in; of up to `logins` attempts the last one's error is raised."""
        self.pace = 1.0
        """How many times longer than usual the guest may take for what it is asked."""
        self._gone = gone
        while True:
            logins -= 1
            try:
                self._transport = self._connect(port, keys, deadline)
                break
            except SshError:
                if not logins or deadline.passed:
                    raise

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
                    hint="check in console.log whether the guest's SSH server (dropbear) is up",
                ) from error
            undo.pop_all()
        return transport

    def start(self, command: str) -> "SshProcess":
        """Start a command. Raises `SshError`, `DeadlineError`, `QemuGoneError`."""
        seconds = OPEN_SECONDS * self.pace
        return self._start(command, Deadline(seconds, f"`{command}` to start in the guest"))

    def _start(self, command: str, deadline: Deadline) -> "SshProcess":
        channel: paramiko.Channel | None = None
        LOG.debug("in the guest, at most %.1f s: %s", deadline.remaining, command)

        # paramiko waits for the answer to exec without a deadline. Closing the channel wakes it,
        # but sends a message over a connection that may be broken.
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
            doing = f"starting `{command}`"
            raise broken(self._gone, doing, error, self._transport) from error
        finally:
            watchdog.cancel()
        return SshProcess(channel, command, self._gone, self.pace)

    def run(
        self,
        command: str,
        *,
        timeout: float = 10.0,
        stdin: bytes = b"",
        check: bool = True,
        limit: int = OUTPUT_BYTES,
    ) -> CommandResult:
        """Run a command to its end, within `timeout` seconds in all.

        Raises like `start`, and `GuestError` for output of more than `limit` bytes and, with
        `check`, for a status other than 0. `timeout` is for a guest of usual pace.
        """
        began = time.monotonic()
        deadline = Deadline(timeout * self.pace, f"`{command}` in the guest")
        with self._start(command, deadline) as process:
            if stdin:
                process.write(stdin, deadline.remaining)
            process.close_stdin()
            result = process.wait(deadline.remaining, limit)
        LOG.debug(
            "after %.3f s in the guest (%s, %d bytes of output): %s",
            time.monotonic() - began,
            how(result.status),
            len(result.stdout),
            command.strip().partition("\n")[0],
        )
        if check and result.status != 0:
            words = result.stderr.decode(errors="replace").strip()
            raise GuestError(f"`{command}` in the guest failed ({how(result.status)}): {words}")
        return result

    def close(self) -> None:
        """Close the connection; never raises."""
        with contextlib.suppress(Exception):
            self._transport.close()


def _check_host_key(seen: paramiko.PKey, keys: RunKeys) -> None:
    if seen.asbytes() != keys.host_public:
        raise SshError(
            "the guest's host key is not the one generated for this run",
            hint="something else answers on the forwarded port; nothing was sent to it",
        )
