# SPDX-License-Identifier: Apache-2.0
"""Client of the guest tool's `counters` stream: the guest's counters on the host's clock.

The head of guest-images/tool/counters.c describes the format.
"""

import re
import struct
import time
from dataclasses import dataclass, replace
from typing import Self

from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import ObserveError
from harness.guest.proc_text import parse_meminfo, parse_vmstat, parse_zones
from harness.machine.interfaces import GuestProcess, GuestShell
from harness.record.facts import GuestCounters

VERSION = 1
PINGS = 5
"""Round trips of the handshake; the shortest gives the most exact clock offset."""

TEXTS_BYTES = 1 << 20
"""Upper bound of the four texts of a frame together: the size of the tool's buffer (counters.c)."""

BURST_FRAMES = 50
"""Frames that may arrive at once after the guest stood still: those the connection held back. The
tool sends no frame twice and skips those it missed."""

START_SECONDS = 20.0
ONCE_SECONDS = 20.0

_MAGIC = struct.Struct("<4sI")
_FRAME = struct.Struct("<QQQQ4I")
_PONG = struct.Struct("<QQ")
_FREE = re.compile(rb"^MemFree:\s*([0-9]{1,20}) kB", re.MULTILINE)


@dataclass(frozen=True)
class CounterFrame:
    """One reading of the guest's counters, unparsed."""

    at: float
    """When the guest read them, in host monotonic seconds."""
    planned_at: float
    """When the guest should have read them, in host monotonic seconds."""
    sequence: int
    missed: int
    """Number of readings that the guest has missed so far."""
    texts: tuple[bytes, bytes, bytes, bytes]
    """The text of meminfo, vmstat, buddyinfo and zoneinfo."""
    raw: bytes
    """The frame as received."""

    @property
    def free_bytes(self) -> int:
        """MemFree in bytes, without parsing the rest. Raises `ObserveError`."""
        match = _FREE.search(self.texts[0])
        if match is None:
            raise ObserveError("the guest's meminfo has no MemFree")
        return int(match[1]) * 1024

    def parse(self) -> GuestCounters:
        """Parse all four texts. Raises `ObserveError`."""
        meminfo, vmstat, buddyinfo, zoneinfo = (
            text.decode("ascii", errors="replace") for text in self.texts
        )
        return GuestCounters(
            at=self.at,
            meminfo=parse_meminfo(meminfo),
            vmstat=parse_vmstat(vmstat),
            zones=parse_zones(zoneinfo, buddyinfo),
        )


@dataclass(frozen=True)
class ClockMap:
    """Converts the guest's monotonic clock to the host's."""

    offset: float
    """Host seconds minus guest seconds."""
    error: float
    """Upper bound of the error in seconds: half a round trip."""

    def to_host(self, guest_ns: int) -> float:
        return guest_ns / 1e9 + self.offset


class CounterStream(Closing):
    """A stream of `hz` frames a second; it starts when entered as a context manager.

    With `on_request` a frame comes only when `read` asks for it: the guest's clock does not follow
    the host's, so that `hz` frames of its seconds would be any number of the host's.
    """

    def __init__(self, shell: GuestShell, hz: float, *, on_request: bool = False) -> None:
        self._shell = shell
        self._hz = hz
        self._on_request = on_request
        self._process: GuestProcess | None = None
        self._began = time.monotonic()
        self._frames = 0
        self.clock = ClockMap(0.0, 0.0)

    def __enter__(self) -> Self:
        how = "--on-request" if self._on_request else f"--hz {self._hz:g}"
        self._process = self._shell.start(f"fpr-guest counters {how}")
        self._began = time.monotonic()
        if self._on_request:
            return self
        try:
            self.clock = self._shake_hands()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the guest's process and wake a `read` in another thread. Never raises."""
        if self._process is not None:
            self._process.close()

    def read(self) -> CounterFrame:
        """Wait for the next frame. Raises `ObserveError`, `SshError`, `DeadlineError`."""
        if self._on_request:
            assert self._process is not None
            self._process.write(b"frame\n")
        answer = self._next(START_SECONDS * self._shell.pace)
        if not isinstance(answer, CounterFrame):
            raise ObserveError("the guest tool answered a ping that the harness did not send")
        self._frames += 1
        if self._on_request:
            return replace(answer, at=time.monotonic())
        due = self._hz * (time.monotonic() - self._began) + BURST_FRAMES
        if self._frames > due:
            raise ObserveError(
                f"the guest tool sent {self._frames} frames, but at most {due:.0f} were due"
            )
        return answer

    def _shake_hands(self) -> ClockMap:
        """Ping the tool to relate the clocks; skip frames that arrive in between."""
        maps = []
        deadline = Deadline(
            START_SECONDS * self._shell.pace, "answers to pings by `fpr-guest counters`"
        )
        for number in range(1, PINGS + 1):
            assert self._process is not None
            sent = time.monotonic()
            self._process.write(b"ping %d\n" % number)
            answer = self._next(deadline.remaining)
            while isinstance(answer, CounterFrame):
                deadline.check()
                answer = self._next(deadline.remaining)
            received = time.monotonic()
            if answer[0] != number:
                raise ObserveError(f"the guest tool answered ping {answer[0]} instead of {number}")
            middle = (sent + received) / 2
            maps.append(ClockMap(middle - answer[1] / 1e9, (received - sent) / 2))
        return min(maps, key=lambda clock: clock.error)

    def _next(self, timeout: float) -> "CounterFrame | tuple[int, int]":
        """Read a frame, or a pong as (number, guest nanoseconds)."""
        assert self._process is not None
        deadline = Deadline(timeout, "a frame of `fpr-guest counters`")
        with deadline.covering():
            return self._read_answer(self._process, deadline)

    def _read_answer(
        self, process: GuestProcess, deadline: Deadline
    ) -> "CounterFrame | tuple[int, int]":
        head = process.read_exactly(_MAGIC.size, deadline.remaining)
        magic, version = _MAGIC.unpack(head)
        if version != VERSION or magic not in (b"FPRC", b"FPRP"):
            raise ObserveError(
                f"the guest tool sent a frame of an unknown format: {magic!r}, version {version}"
            )
        if magic == b"FPRP":
            number, now = _PONG.unpack(process.read_exactly(_PONG.size, deadline.remaining))
            return number, now
        fields = process.read_exactly(_FRAME.size, deadline.remaining)
        sequence, missed, planned, actual, *lengths = _FRAME.unpack(fields)
        _check_lengths(lengths)
        body = process.read_exactly(sum(lengths), deadline.remaining)
        return _frame(sequence, missed, planned, actual, lengths, body, head + fields, self.clock)


def _check_lengths(lengths: list[int]) -> None:
    if sum(lengths) > TEXTS_BYTES:
        raise ObserveError(
            f"the guest tool announces texts of {sum(lengths)} bytes, more than its buffer holds "
            f"({TEXTS_BYTES})"
        )


def _frame(
    sequence: int,
    missed: int,
    planned: int,
    actual: int,
    lengths: list[int],
    body: bytes,
    head: bytes,
    clock: ClockMap,
) -> CounterFrame:
    texts, start = [], 0
    for length in lengths:
        texts.append(body[start : start + length])
        start += length
    return CounterFrame(
        at=clock.to_host(actual),
        planned_at=clock.to_host(planned),
        sequence=sequence,
        missed=missed,
        texts=(texts[0], texts[1], texts[2], texts[3]),
        raw=head + body,
    )


def read_counters(shell: GuestShell) -> GuestCounters:
    """Read the guest's counters once. Raises `ObserveError`, `SshError`, `GuestError`."""
    data = shell.run("fpr-guest counters --once", timeout=ONCE_SECONDS).stdout
    head, fields = data[: _MAGIC.size], data[_MAGIC.size : _MAGIC.size + _FRAME.size]
    if len(fields) != _FRAME.size or _MAGIC.unpack(head) != (b"FPRC", VERSION):
        raise ObserveError(f"the guest tool sent {len(data)} bytes that are not counters")
    sequence, missed, planned, actual, *lengths = _FRAME.unpack(fields)
    body = data[_MAGIC.size + _FRAME.size :]
    if len(body) != sum(lengths):
        raise ObserveError(f"the guest's counters have {len(body)} bytes, not {sum(lengths)}")
    now = ClockMap(time.monotonic() - actual / 1e9, 0.0)
    return _frame(sequence, missed, planned, actual, lengths, body, head + fields, now).parse()
