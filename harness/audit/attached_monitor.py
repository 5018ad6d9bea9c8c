# SPDX-License-Identifier: Apache-2.0
"""QMP to a QEMU that somebody else started: one connection, which only asks."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from harness.audit.questions import Questions
from harness.audit.unix_socket import connect_to
from harness.closing import Closing
from harness.errors import QmpError
from harness.machine.pace import slowness

GREETING_SECONDS = 3.0
"""QEMU greets a client at once, unless another one is connected: a socket serves one at a time, and
the next waits until the first has gone (chardev/char-socket.c)."""

# Errors arrive as exceptions; without a handler Python would print the library's log.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())

_PEER = struct.Struct("3i")


class AttachedMonitor(Closing):
    """A `Monitor` that connects to the listening socket of a running QEMU."""

    def __init__(self, path: Path) -> None:
        """Connect and negotiate. Raises `QmpError`."""
        self.path = path
        self._questions = Questions()
        self._pace = slowness()
        self._runner = asyncio.Runner()
        self._client = QMPClient("fpr-harness audit")
        try:
            self.peer_pid = self._connect()
        except BaseException:
            self._runner.close()
            raise

    def _connect(self) -> int:
        seconds = GREETING_SECONDS * self._pace
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connect_to(connection, self.path)
            pid, _uid, _gid = _PEER.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )
            self._runner.run(asyncio.wait_for(self._client.connect(connection), seconds))
        except (TimeoutError, BlockingIOError) as error:
            connection.close()
            raise QmpError(
                f"QEMU did not greet within {seconds:.0f} s on {self.path}: another client is "
                "connected there, and a QMP socket serves one at a time (or QEMU hangs, or the "
                "socket is not for QMP: a guest agent's does not greet)",
                hint="end the other client, give QEMU a second socket "
                "(-qmp unix:PATH,server=on,wait=off), or for libvirt name the VM by --domain",
            ) from error
        except (OSError, QMPError) as error:
            connection.close()
            raise _unreachable(self.path, error) from error
        return int(pid)

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """Execute a query, return its `return` member.

        Raises `QmpError`, and `ValueError` for a command that might change something.
        """
        self._questions.check(command, arguments)
        given = dict(arguments) if arguments is not None else None
        answer = self._client.execute(command, given)
        try:
            return self._runner.run(asyncio.wait_for(answer, timeout * self._pace))
        except TimeoutError as error:
            raise QmpError(
                f"QMP {command}: no answer within {timeout * self._pace:g} s",
                hint="QEMU hangs, or the host is overloaded",
            ) from error
        except ExecuteError as error:
            raise QmpError(f"QMP {command} was refused: {error}") from error
        except (QMPError, OSError) as error:
            raise QmpError(
                f"QMP {command}: the connection broke ({error})",
                hint="check whether the VM has ended",
            ) from error

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Execute an HMP command, return its text with Unix line ends. Raises like `execute`."""
        text = self.execute("human-monitor-command", {"command-line": command}, timeout=timeout)
        return str(text).replace("\r\n", "\n")

    def close(self) -> None:
        """Disconnect; never raises."""
        with contextlib.suppress(Exception):
            self._runner.run(asyncio.wait_for(self._client.disconnect(), GREETING_SECONDS))
        self._runner.close()


def _unreachable(path: Path, error: Exception) -> QmpError:
    if isinstance(error, FileNotFoundError):
        return QmpError(
            f"there is no QMP socket {path}",
            hint="check the path in QEMU's command line; where somebody has deleted the socket, "
            "QEMU cannot be reached over it any more",
        )
    if isinstance(error, ConnectionRefusedError) and not path.is_socket():
        return QmpError(f"{path} is no socket", hint="check the path in QEMU's command line")
    if isinstance(error, ConnectionRefusedError):
        return QmpError(f"nobody listens on {path}", hint="check whether its QEMU still runs")
    if isinstance(error, PermissionError):
        return QmpError(
            f"the QMP socket {path} may not be used: {error.strerror}",
            hint="run this as the user who runs QEMU, or as root",
        )
    return QmpError(
        f"cannot speak QMP on {path}: {error}", hint="name the socket of -qmp, not of -monitor"
    )
