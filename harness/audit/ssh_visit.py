# SPDX-License-Identifier: Apache-2.0
"""One visit to a guest by ssh(1): a single command that tells facts, then runs the guest tool.

The tool comes over the command's standard input into a file of its own in the guest, which is
removed before the tool runs: it runs from the open descriptor. Whatever ends the visit, there is
nothing to remove afterwards. The end of standard input ends the tool.
"""

import contextlib
import os
import resource
import select
import subprocess
import tempfile
from typing import Self

from harness.audit import guest_tool
from harness.audit.guest_told import FACTS_SCRIPT, MARK
from harness.audit.ssh_words import (
    CONNECT_SECONDS,
    Destination,
    by_hand,
    meaning,
    ssh_command,
)
from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import HarnessError, ObserveError, SshError
from harness.machine.interfaces import CommandResult

FACTS_SECONDS = 20.0
COPY_SECONDS = 30.0
GRACE_SECONDS = 3.0
"""Time for the guest's side to end by itself once its input has ended."""

FACTS_BYTES = 8 << 20
"""The most that is read of what a guest tells; a guest of 256 processors tells about 300 KiB."""

STDERR_BYTES = 64 << 20
"""The most that ssh may write to any file: beyond it, ssh dies of SIGXFSZ. A known_hosts file that
it adds a host to must stay below, too."""

_CHUNK = 1 << 16
_READY, _CANNOT = "ready", "cannot"

# `set -C` makes `>` refuse a file that is there, be it a link that another user has laid. A file
# system without execution refuses to run the empty script; busybox's test -x believes the mode. The
# zeros show whether there is room before the tool comes.
TOOL_SCRIPT = f"""
umask 077
set -C
file=
trap '[ -z "$file" ] || rm -f "$file"' EXIT
trap 'exit 1' HUP INT TERM PIPE
for directory in /tmp /run; do
  file=$directory/fpr-audit.$$
  if (echo '#!/bin/sh' > "$file") 2>/dev/null; then
    chmod 700 "$file"
    "$file" 2>/dev/null && (set +C; head -c SIZE /dev/zero > "$file") 2>/dev/null && break
    rm -f "$file"
  fi
  file=
done
if [ -z "$file" ]; then
  echo "{MARK}{_CANNOT}"
  echo "neither /tmp nor /run of the guest takes a program (read-only, full, or mounted noexec)" >&2
  exit 1
fi
echo "{MARK}{_READY}"
set +C
head -c SIZE > "$file"
set -- $(wc -c < "$file")
[ "$1" = SIZE ] || {{ echo "only $1 of SIZE bytes of the tool arrived" >&2; exit 1; }}
exec 3< "$file"
rm -f "$file"
trap - EXIT HUP INT TERM PIPE
exec /proc/self/fd/3 pages --kinds --patient PATIENT
"""


class SshVisit(Closing):
    """A running ssh(1) with the script behind it; a `GuestShell` for the tool's page stream."""

    pace = guest_tool.READING_PACE

    def __init__(self, to: Destination, tool: bytes) -> None:
        """Start ssh. Raises `SshError` if there is none."""
        self._to = to
        self._tool = tool
        self._buffer = bytearray()
        self._entered = False
        """The guest has told something."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        script = FACTS_SCRIPT + TOOL_SCRIPT.replace("SIZE", str(len(tool))).replace(
            "PATIENT", str(guest_tool.PATIENT_SECONDS)
        )
        self._script = script.encode()
        try:
            self._process = subprocess.Popen(
                ssh_command(to, len(self._script)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                # Ctrl-C is for this process, which ends the visit in order.
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise SshError(
                f"cannot start ssh: {error}", hint="install OpenSSH's client (openssh-client)"
            ) from error
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        # What a guest says on standard error goes to a file.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (STDERR_BYTES,) * 2)

    def facts(self) -> str:
        """Read what the guest tells of itself. Raises `SshError`, `DeadlineError`."""
        deadline = Deadline(FACTS_SECONDS + CONNECT_SECONDS, f"{self._to} to tell of itself")
        with contextlib.suppress(SshError):  # it says why on its output
            self.write(self._script, deadline.remaining)
        ends = tuple(f"{MARK}{word}\n".encode() for word in (_READY, _CANNOT))
        while not any(end in self._buffer for end in ends):
            if len(self._buffer) > FACTS_BYTES:
                raise ObserveError(f"{self._to} tells more than {FACTS_BYTES} bytes of itself")
            self._buffer += self._receive(deadline) or self._ended()
            self._entered = self._entered or MARK.encode() in self._buffer
        text, _, rest = bytes(self._buffer).partition(ends[0])
        if ends[1] in text:
            self._ended()
        self._buffer[:] = rest
        return text.decode(errors="replace")

    def start(self, _command: str) -> Self:
        """Send the tool, which the script then runs; the command is the script's own."""
        self.write(self._tool, COPY_SECONDS)
        return self

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        """A visit runs nothing but its script."""
        del timeout, stdin, check
        raise ValueError(f"a visit does not run `{command}`")

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        """Write to the command's standard input. Raises `SshError`, `DeadlineError`."""
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        deadline = Deadline(timeout, f"{self._to} to take {len(data)} bytes")
        sent = 0
        while sent < len(data):
            if not select.select([], [descriptor], [], deadline.remaining)[1]:
                raise deadline.error(self._words())
            try:
                sent += os.write(descriptor, data[sent : sent + _CHUNK])
            except OSError as error:
                raise self._broken() from error

    def read_exactly(self, size: int, timeout: float) -> bytes:
        """Read `size` bytes of output. Raises `SshError` if it ends first, `DeadlineError`."""
        deadline = Deadline(timeout, f"{size} bytes from {self._to}")
        while len(self._buffer) < size:
            self._buffer += self._receive(deadline) or self._ended()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, timeout: float) -> str:
        """The tool's page stream has no lines."""
        raise ValueError(f"no line within {timeout} s")

    def close_stdin(self) -> None:
        """End the command's standard input."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout: float) -> CommandResult:
        """Wait for its end. Raises `DeadlineError`."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Deadline(timeout, f"the end of the visit to {self._to}").error() from None
        return CommandResult("fpr-guest pages", status, b"", self._words().encode())

    def close(self) -> None:
        """End the visit in any state; never raises."""
        self.close_stdin()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()

    def _receive(self, deadline: Deadline) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], deadline.remaining)[0]:
            raise deadline.error(self._words()[-200:])
        return os.read(descriptor, _CHUNK)

    def _ended(self) -> bytes:
        raise self._broken()

    def _broken(self) -> HarnessError:
        """Make the error for a visit that ended before its time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        words = self._words().strip()
        # An account that may not be used says so on standard output.
        said = words or bytes(self._buffer[:500]).partition(MARK.encode())[0].decode(
            errors="replace"
        )
        return meaning(self._to, words) or SshError(
            f"the visit to {self._to} ended early (ssh's status {self._process.poll()}): "
            f"{said[-500:].strip() or 'it said nothing'}",
            hint="the connection broke, the guest restarts, or the tool was killed; try again"
            if self._entered
            else f"try by hand: {by_hand(self._to)}",
        )

    def _words(self) -> str:
        """What ssh, the script and the tool said on standard error."""
        text = os.pread(self._stderr.fileno(), _CHUNK, 0).decode(errors="replace")
        return text.replace("\r\n", "\n")
