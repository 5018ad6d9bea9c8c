# SPDX-License-Identifier: Apache-2.0
"""QEMU's words about the memory that it discards: lines of its trace and of its standard error."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

# trace-events (system/trace-events): "%s@%p + 0x%zx: madvise: %d fallocate: %d ret: %d". The event
# is ram_block_discard_range up to 10.0 and ram_block_discard_shared_range in 11.1. Under `-msg
# timestamp=on` the log backend (scripts/tracetool/backend/log.py) begins the line with
# "THREAD@SECONDS.MICROSECONDS:" up to 10.0, with an ISO 8601 time in 11.1. The block's name may be
# empty or hold a path.
_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
_DISCARD = re.compile(
    rb"^(?:\d+@(\d{1,15}\.\d{6}):|(" + _TIME + rb")Z )?.*?\bram_block_discard(?:_shared)?_range "
    rb"([^\n]*)@0x([0-9a-f]{1,16})"
    rb" \+ 0x([0-9a-f]{1,16}): madvise: \d+ fallocate: \d+ ret: (-?\d{1,10})\r?$",
    re.MULTILINE,
)

# A discard that fails is not traced (ram_block_discard_range(), 5.2 to 11.1, leaves before): it is
# reported, on QEMU's standard error, after the time under `-msg timestamp=on`. From 10.0 on the
# place in a file is "OFFSET+START OF THE BLOCK'S PART".
_FAILURE = re.compile(
    rb"^(?:(" + _TIME + rb")Z )?[^\n]*"
    rb"ram_block_discard(?:_shared)?_range: Failed to (?:discard|fallocate)[^\n]*"
    rb" ([^\n: ]*):([0-9a-f]{1,16})(?:\+[0-9a-f]{1,16})? \+([0-9a-f]{1,16}) \((-?\d{1,10})\)\r?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Discard:
    """One line of the trace: QEMU gave host addresses [address, address + length) back."""

    at: float | None
    """Seconds since 1970 by the host's clock; None without a stamp."""
    block: str
    """The RAM block's name, which need not be unique: a hot-plugged one has none at first."""
    address: int
    length: int
    status: int
    """What the kernel answered: 0, or a negative errno."""

    @property
    def ok(self) -> bool:
        return self.status == 0


@dataclass(frozen=True, slots=True)
class FailedDiscard:
    """One line of standard error: bytes [offset, offset + length) of a block stayed."""

    at: float | None
    """Seconds since 1970 by the host's clock; None without a stamp."""
    block: str
    offset: int
    length: int
    status: int
    """A negative errno."""


def parse_discards(text: bytes) -> Iterator[Discard]:
    """The discards of a piece of the trace, whole lines in their order; others are passed over."""
    for stamp, time, block, address, length, status in _DISCARD.findall(text):
        yield Discard(
            at=float(stamp) if stamp else _seconds(time),
            block=block.decode("utf-8", "replace"),
            address=int(address, 16),
            length=int(length, 16),
            status=int(status),
        )


def parse_failures(text: bytes) -> Iterator[FailedDiscard]:
    """The failed discards in QEMU's standard error; other lines are passed over."""
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
