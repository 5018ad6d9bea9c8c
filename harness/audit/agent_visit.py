# SPDX-License-Identifier: Apache-2.0
"""One visit to a guest through QEMU's guest agent: facts, then the guest tool, run twice.

The agent runs programs to their end and cannot stream, so that the tool lies in the guest for the
time of the visit, in a directory of its own. The end of the visit removes it; a process of the
guest that nobody waits for does so if the visit is cut (`LIFE_SECONDS`).
"""

import base64
import contextlib
import secrets
import threading
from collections.abc import Sequence
from typing import Any, Self, TypeVar

from harness.audit import guest_tool
from harness.audit.agent_channel import AgentChannel
from harness.audit.guest_told import FACTS_SCRIPT, MARK
from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import HarnessError, ObserveError
from harness.machine.interfaces import CommandResult
from harness.machine.pace import slowness

Kind = TypeVar("Kind")

FACTS_SECONDS = 20.0
TOOL_SECONDS = 90.0
"""For one reading of all pages: 0.1 s per GiB under TCG, and as long as the tool is
patient (`PATIENT_SECONDS`)."""
GRACE_SECONDS = 3.0

LIFE_SECONDS = 240
"""After this, the guest removes the directory of a visit that was cut."""

CHUNK = 60_000
"""Bytes of the tool in one command: in base64 they must fit into one argument of virsh (128 KiB,
MAX_ARG_STRLEN of the kernel)."""
READ_CHUNK = 1 << 20
"""Bytes of page states in one answer; libvirt passes strings of at most 4 MiB
(VIR_NET_MESSAGE_STRING_MAX)."""
POLL_SECONDS = 0.02
"""The agent has no way to wait for the end of a program (guest-exec-status)."""

# mkdir fails for a name that is there, be it a link that another user has laid; a file system
# without execution refuses to run the empty script. What stays behind
# in the background must not hold the agent's pipes.
MAKE_SCRIPT = f"""
umask 077
for place in /tmp /run; do
  if mkdir -m 700 "$place/NAME" 2>/dev/null; then
    echo '#!/bin/sh' > "$place/NAME/tool"
    chmod 700 "$place/NAME/tool"
    if "$place/NAME/tool" 2>/dev/null; then
      echo "{MARK}place"
      echo "$place/NAME"
      (turn=0
      while [ -d "$place/NAME" ] && [ $turn -lt {LIFE_SECONDS} ]; do
        sleep 1
        turn=$((turn + 1))
      done
      rm -rf "$place/NAME") > /dev/null 2>&1 < /dev/null &
      exit 0
    fi
    rm -rf "$place/NAME"
  fi
done
echo "neither /tmp nor /run of the guest takes a program (read-only, full, or mounted noexec)" >&2
exit 1
"""
RUN_SCRIPT = '"$1/tool" pages --kinds --patient "$2" < /dev/null > "$1/pages"'


class AgentVisit(Closing):
    """A visit over a connection to the agent, which it closes."""

    pace = guest_tool.READING_PACE

    def __init__(self, channel: AgentChannel, tool: bytes) -> None:
        self._channel = channel
        self._tool = tool
        self._pace = slowness()
        self._name = ""
        self._place = ""
        self._file: int | None = None
        self._buffer = bytearray()
        self._end: CommandResult | None = None

    def facts(self) -> str:
        """Make the directory, and read what the guest tells of itself. Raises `ObserveError`."""
        self._name = f"fpr-audit.{secrets.token_hex(8)}"
        script = FACTS_SCRIPT + MAKE_SCRIPT.replace("NAME", self._name)
        done = self._shell(script, (), FACTS_SECONDS)
        text = done.stdout.decode(errors="replace")
        told, _, place = text.partition(f"{MARK}place\n")
        self._place = place.strip()
        if done.status or not self._place.endswith(self._name):
            raise ObserveError(
                f"cannot look into the guest through its agent (status {done.status}): "
                f"{done.stderr.decode(errors='replace')[-300:].strip() or 'it said nothing'}"
            )
        return told

    def start(self, _command: str) -> Self:
        """Copy the tool and run it for the first time; the command is the script's own."""
        target = {"path": f"{self._place}/tool", "mode": "r+"}
        handle = _told(self._channel.execute("guest-file-open", target), int)
        for start in range(0, len(self._tool), CHUNK):
            part = base64.b64encode(self._tool[start : start + CHUNK]).decode()
            self._channel.execute("guest-file-write", {"handle": handle, "buf-b64": part})
        self._channel.execute("guest-file-close", {"handle": handle})
        self._take()
        return self

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        """A visit runs nothing but its scripts."""
        del timeout, stdin, check
        raise ValueError(f"a visit does not run `{command}`")

    def write(self, _data: bytes) -> None:
        """Ask for one more reading, as the tool takes a line on its standard input."""
        self._take()

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """Read `size` bytes of a reading. Raises `ObserveError`, `DeadlineError`."""
        deadline = Deadline(timeout, f"{size} bytes from the guest agent")
        while len(self._buffer) < size:
            deadline.check()
            wanted = {"handle": self._file, "count": READ_CHUNK}
            answer = _told(self._channel.execute("guest-file-read", wanted), dict)
            data = _decoded(answer.get("buf-b64", ""))
            if not data:
                raise ObserveError(f"the tool's output in the guest lacks {size} bytes")
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, timeout: float) -> str:
        """The tool's page stream has no lines."""
        raise ValueError(f"no line within {timeout} s")

    def close_stdin(self) -> None:
        """The tool has none."""

    def wait(self, timeout: float) -> CommandResult:
        """Return the end of the last reading, which never waits."""
        del timeout
        return self._end or CommandResult("fpr-guest pages", 0, b"", b"")

    def close(self) -> None:
        """End the visit in any state, and remove the directory; never raises."""
        with contextlib.suppress(HarnessError, TypeError, ValueError):
            self._close_file()
            if self._name:
                places = (f"/tmp/{self._name}", f"/run/{self._name}")
                self._shell('rm -rf "$@"', places, GRACE_SECONDS)
                self._name = ""
        self._channel.close()

    def _take(self) -> None:
        """Run the tool once, and open what it has written."""
        self._close_file()
        self._end = done = self._shell(
            RUN_SCRIPT, (self._place, str(guest_tool.PATIENT_SECONDS)), TOOL_SECONDS
        )
        if done.status:
            raise ObserveError(
                f"the guest tool ended (status {done.status}): "
                f"{done.stderr.decode(errors='replace')[-300:].strip() or 'it said nothing'}",
                hint="the guest restarts, is short of memory, or the tool was killed; try again",
            )
        target = {"path": f"{self._place}/pages", "mode": "r"}
        self._file = _told(self._channel.execute("guest-file-open", target), int)

    def _close_file(self) -> None:
        self._buffer.clear()
        handle, self._file = self._file, None
        if handle is not None:
            self._channel.execute("guest-file-close", {"handle": handle})

    def _shell(self, script: str, words: Sequence[str], seconds: float) -> CommandResult:
        """Run a script of sh(1) in the guest to its end. Raises `ObserveError`, `DeadlineError`."""
        arguments = {
            "path": "/bin/sh",
            "arg": ["-c", script, "fpr-audit", *words],
            "capture-output": True,
        }
        started = _told(self._channel.execute("guest-exec", arguments), dict)
        process = {"pid": _told(started.get("pid"), int)}
        deadline = Deadline(seconds * self._pace, "the guest agent's program to end")
        pause = threading.Event()
        while not (status := self._status(process)).get("exited"):
            deadline.check()
            pause.wait(POLL_SECONDS)
        if status.get("out-truncated") or status.get("err-truncated"):
            raise ObserveError("the guest tells more of itself than its agent passes on")
        return CommandResult(
            "sh",
            # A program that a signal killed has no exit code.
            _told(status.get("exitcode", 128 + _told(status.get("signal", 0), int)), int),
            _decoded(status.get("out-data", "")),
            _decoded(status.get("err-data", "")),
        )

    def _status(self, process: dict[str, int]) -> dict[str, Any]:
        return _told(self._channel.execute("guest-exec-status", process), dict)


def _told(answer: Any, kind: type[Kind]) -> Kind:
    """Return what the agent, a program of the guest's, told. Raises `ObserveError` for nonsense."""
    if not isinstance(answer, kind):
        raise ObserveError(f"the guest agent answers {answer!r:.100}, where {kind.__name__} is due")
    return answer


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise ObserveError(f"the guest agent's data are no base64: {text!r:.100}") from error
