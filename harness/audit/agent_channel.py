# SPDX-License-Identifier: Apache-2.0
"""Two ways to QEMU's guest agent: the socket of its serial port, and libvirt's connection to it.

The agent answers one client at a time, one command after the other (qga/main.c).
"""

import contextlib
import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.audit.unix_socket import connect_to
from harness.audit.virsh import run_virsh
from harness.deadline import Deadline
from harness.errors import ObserveError
from harness.machine.pace import slowness

SYNC_SECONDS = 5.0
"""The agent answers at once, or it is not there: what nobody reads stays in the serial port."""

MOST_BYTES = 8 << 20
"""Of one answer; an audit asks for 1 MiB at a time, in base64."""

_SENTINEL = b"\xff"
"""In front of the answer to `guest-sync-delimited`; the agent drops what it has read up to it."""

_HINT = (
    "check in the guest that qemu-guest-agent is installed and runs (systemctl status "
    "qemu-guest-agent), and on the host that no other client holds the socket"
)


class AgentChannel(Protocol):
    """A connection to the agent of one guest."""

    def execute(self, command: str, arguments: Mapping[str, Any], *, timeout: float = 10.0) -> Any:
        """Execute a command, return its `return` member. Raises `ObserveError`."""

    def close(self) -> None:
        """Disconnect; never raises."""


class SocketAgent:
    """An agent behind the listening socket of a chardev."""

    def __init__(self, path: Path) -> None:
        """Connect, and make sure that somebody answers. Raises `ObserveError`."""
        self._path = path
        self._pace = slowness()
        self._received = bytearray()
        self._answers_left = False
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connect()
            self._synchronise()
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> None:
        try:
            connect_to(self._connection, self._path)
        except OSError as error:
            raise ObserveError(
                f"cannot reach the guest agent's socket {self._path}: {error.strerror}",
                hint="check the path of the -chardev of org.qemu.guest_agent.0, and that you may "
                "use it (as the user who runs QEMU, or as root)",
            ) from error

    def _synchronise(self) -> None:
        """Skip what earlier commands, or an earlier client, left to be read."""
        number = secrets.randbelow(1 << 31)
        message = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        deadline = Deadline(SYNC_SECONDS * self._pace, "the guest agent to answer")
        with deadline.covering():
            self._send(_SENTINEL + json.dumps(message).encode() + b"\n", deadline)
            answer: Any = {}
            while answer.get("return") != number:
                self._line(_SENTINEL, deadline)
                answer = self._parsed(self._line(b"\n", deadline))
        self._answers_left = False

    def execute(self, command: str, arguments: Mapping[str, Any], *, timeout: float = 10.0) -> Any:
        """Execute a command, return its `return` member. Raises `ObserveError`."""
        if self._answers_left:
            self._synchronise()
        message = {"execute": command, "arguments": dict(arguments)}
        deadline = Deadline(timeout * self._pace, f"the guest agent to answer {command}")
        # Ctrl-C may come before the answer does.
        self._answers_left = True
        self._send(json.dumps(message).encode() + b"\n", deadline)
        answer = self._parsed(self._line(b"\n", deadline))
        self._answers_left = False
        return result_of(command, answer)

    def close(self) -> None:
        """Disconnect; never raises."""
        self._connection.close()

    def _send(self, data: bytes, deadline: Deadline) -> None:
        try:
            self._connection.settimeout(deadline.remaining)
            self._connection.sendall(data)
        except TimeoutError:
            raise self._silent(deadline) from None
        except OSError as error:
            raise self._broken(error) from error

    def _line(self, end: bytes, deadline: Deadline) -> bytes:
        """Read up to and without `end`; an agent that never stops talking is silent, too."""
        while True:
            if deadline.passed:
                raise self._silent(deadline)
            if end in self._received:
                break
            if len(self._received) > MOST_BYTES:
                raise ObserveError(f"the guest agent answers with more than {MOST_BYTES} bytes")
            try:
                self._connection.settimeout(max(deadline.remaining, 0.001))
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                raise self._silent(deadline) from None
            except OSError as error:
                raise self._broken(error) from error
            if not data:
                raise self._broken(None)
            self._received += data
        line, _, rest = bytes(self._received).partition(end)
        self._received[:] = rest
        return line

    def _parsed(self, line: bytes) -> Any:
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ObserveError(f"the guest agent answered no JSON: {line!r:.200}") from error
        if not isinstance(answer, dict):
            raise ObserveError(f"the guest agent answered nonsense: {line!r:.200}")
        return answer

    def _silent(self, deadline: Deadline) -> ObserveError:
        error = deadline.error()
        return ObserveError(f"{error.message} (socket {self._path})", hint=_HINT)

    def _broken(self, error: OSError | None) -> ObserveError:
        return ObserveError(
            f"the connection to the guest agent on {self._path} broke: {error or 'it was closed'}",
            hint="check whether the VM has ended",
        )


class VirshAgent:
    """An agent that libvirt is connected to; libvirt then marks the domain `custom-ga-command`."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._pace = slowness()

    def execute(self, command: str, arguments: Mapping[str, Any], *, timeout: float = 10.0) -> Any:
        """Execute a command, return its `return` member. Raises `ObserveError`."""
        message = json.dumps({"execute": command, "arguments": dict(arguments)})
        seconds = max(1, round(timeout * self._pace))
        words = ("qemu-agent-command", self._domain, "--timeout", str(seconds), message)
        return result_of(command, run_virsh(words, self._domain, seconds + 5.0))

    def close(self) -> None:
        """There is no connection of its own to close."""


def result_of(command: str, answer: Mapping[str, Any]) -> Any:
    """Return the `return` member of an answer. Raises `ObserveError` for an error."""
    if "error" not in answer:
        return answer.get("return")
    said = answer["error"]
    with contextlib.suppress(AttributeError):
        said = said.get("desc", said)
    raise refused(command, str(said))


def refused(command: str, said: str) -> ObserveError:
    """Make the error for a command that the agent refused with these words."""
    hint = "look into the agent's log in the guest"
    if "disabled" in said or "not been found" in said:
        hint = (
            "allow guest-exec and guest-file-* in the guest's configuration of the agent "
            "(qemu-ga(8): block-rpcs; FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga), or use --ssh"
        )
    return ObserveError(f"the guest agent refuses {command}: {said[:300]}", hint=hint)
