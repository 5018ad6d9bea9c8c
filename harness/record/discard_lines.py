# SPDX-License-Identifier: Apache-2.0
"""Parses what QEMU says of its discards: lines of its trace and of its standard error."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

# system/trace-events: "%s@%p + 0x%zx: madvise: %d fallocate: %d ret: %d". The event is called
# ram_block_discard_range up to 10.0, and ram_block_discard_shared_range in 11.1. With `-msg
# timestamp=on` the log backend (scripts/tracetool/backend/log.py) starts each line with
# "THREAD@SECONDS.MICROSECONDS:" up to 10.0, and with an ISO 8601 time in 11.1. The block's name may
# be empty or a path.
_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
_DISCARD = re.compile(
    rb"^(?:\d+@(\d{1,15}\.\d{6}):|(" + _TIME + rb")Z )?.*?\bram_block_discard(?:_shared)?_range "
    rb"([^\n]*)@0x([0-9a-f]{1,16})"
    rb" \+ 0x([0-9a-f]{1,16}): madvise: \d+ fallocate: \d+ ret: (-?\d{1,10})\r?$",
    re.MULTILINE,
)

# QEMU does not trace a discard that fails: ram_block_discard_range(), 5.2 to 11.1, returns before
# the trace event. It writes an error to standard error instead, preceded by the time with `-msg
# timestamp=on`. From 10.0 on, the position in a file is "OFFSET+START OF THE BLOCK'S PART".
_FAILURE = re.compile(
    rb"^(?:(" + _TIME + rb")Z )?[^\n]*"
    rb"ram_block_discard(?:_shared)?_range: Failed to (?:discard|fallocate)[^\n]*"
    rb" ([^\n: ]*):([0-9a-f]{1,16})(?:\+[0-9a-f]{1,16})? \+([0-9a-f]{1,16}) \((-?\d{1,10})\)\r?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Discard:
    """One line of the trace: QEMU discarded host addresses [address, address + length)."""

    at: float | None
    """Seconds since the epoch by the host's clock; None without a stamp."""
    block: str
    """The RAM block's name, not necessarily unique: a hot-plugged block has none at first."""
    address: int
    length: int
    status: int
    """The kernel's answer: 0 or a negative errno."""

    @property
    def ok(self) -> bool:
        return self.status == 0


@dataclass(frozen=True, slots=True)
class FailedDiscard:
    """One line of standard error: QEMU could not discard bytes [offset, offset + length) of a
    block."""

    at: float | None
    """Seconds since the epoch by the host's clock; None without a stamp."""
    block: str
    offset: int
    length: int
    status: int
    """A negative errno."""


def parse_discards(text: bytes) -> Iterator[Discard]:
    """Parse the discards in complete lines of the trace, in order; skip other lines."""
    for stamp, time, block, address, length, status in _DISCARD.findall(text):
        yield Discard(
            at=float(stamp) if stamp else _seconds(time),
            block=block.decode("utf-8", "replace"),
            address=int(address, 16),
            length=int(length, 16),
            status=int(status),
        )


def parse_failures(text: bytes) -> Iterator[FailedDiscard]:
    """Parse the failed discards in QEMU's standard error; skip other lines."""
    for stamp, block, offset, length, status in _FAILURE.findall(text):
        yield FailedDiscard(
            at=_seconds(stamp),
            block=block.decode("utf-8", "replace"),
            offset=int(offset, 16),
            length=int(length, 16),
            status=int(status),
        )


def _seconds(stamp: bytes) -> float | None:
    try:
        time = datetime.datetime.fromisoformat(stamp.decode("ascii"))
    except ValueError:
        return None
    return time.replace(tzinfo=datetime.UTC).timestamp()
