# SPDX-License-Identifier: Apache-2.0
"""What QEMU writes about its discards, as facts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.machine.qemu import DISCARD_EVENTS
from harness.record.discard_lines import Discard, FailedDiscard, parse_discards, parse_failures
from harness.units import MIB


def test_a_line_of_the_trace() -> None:
    text = (
        b"4931@1795447012.605409:ram_block_discard_range m0@0x7fb133e00000 + 0x200000: "
        b"madvise: 1 fallocate: 0 ret: 0\n"
    )
    (found,) = parse_discards(text)
    assert found == Discard(1795447012.605409, "m0", 0x7FB133E00000, 2 * MIB, 0)
    assert found.ok


def test_a_line_of_the_trace_of_qemu_11() -> None:
    """Another name of the event, and another way to write the time."""
    text = (
        b"2026-11-26T17:38:10.214648Z ram_block_discard_shared_range m0@0x7fd9b9200000 + 0x400000: "
        b"madvise: 1 fallocate: 0 ret: 0\n"
    )
    (found,) = parse_discards(text)
    assert found == Discard(1795714690.214648, "m0", 0x7FD9B9200000, 4 * MIB, 0)


@pytest.mark.parametrize("event", DISCARD_EVENTS)
def test_every_event_that_a_qemu_may_be_asked_for_is_understood(event: str) -> None:
    text = f"{event} m0@0x1000 + 0x2000: madvise: 1 fallocate: 0 ret: 0".encode()
    assert [discard.length for discard in parse_discards(text)] == [0x2000]


@pytest.mark.parametrize("block", [b"", b"0000:00:02.0/m0", b"odd @0x1 + name"])
def test_a_block_may_have_any_name_and_a_line_no_stamp(block: bytes) -> None:
    text = (
        b"ram_block_discard_range " + block + b"@0x1000 + 0x2000: madvise: 0 fallocate: 1 ret: -22"
    )
    assert list(parse_discards(text)) == [Discard(None, block.decode(), 0x1000, 0x2000, -22)]


def test_lines_keep_their_order_and_a_line_cut_off_is_no_discard() -> None:
    line = b"1@2.000003:ram_block_discard_range m0@0x%x + 0x1000: madvise: 1 fallocate: 0 ret: 0\n"
    text = line % 0x3000 + b"7@1.000002:other x\n" + line % 0x1000 + (line % 0x5000)[:60]
    assert [discard.address for discard in parse_discards(text)] == [0x3000, 0x1000]


def test_a_discard_that_failed_as_standard_error_has_it() -> None:
    """As QEMU 7.2 words it, with ENOMEM from madvise."""
    text = (
        b"qemu-system-x86_64: warning: something else\n"
        b"2026-11-23T19:41:07.140402Z qemu-system-x86_64: ram_block_discard_range: "
        b"Failed to discard range m0:3c00000 +200000 (-12)\n"
        b"qemu-system-x86_64: ram_block_discard_range: "
        b"Failed to fallocate /objects/m0:1000 +1000 (-95)\n"
    )
    assert list(parse_failures(text)) == [
        FailedDiscard(1795462867.140402, "m0", 0x3C00000, 2 * MIB, -12),
        FailedDiscard(None, "/objects/m0", 0x1000, 0x1000, -95),
    ]


def test_a_discard_that_failed_as_later_versions_word_it() -> None:
    """The place in the file from 10.0 on, the function's new name in 11.1."""
    text = (
        b"qemu-system-x86_64: ram_block_discard_range: "
        b"Failed to fallocate m0:3c00000+1000 +200000 (-28)\n"
        b"qemu-system-x86_64: ram_block_discard_shared_range: "
        b"Failed to discard range m0:0 +200000 (-12)\n"
    )
    assert list(parse_failures(text)) == [
        FailedDiscard(None, "m0", 0x3C00000, 2 * MIB, -28),
        FailedDiscard(None, "m0", 0, 2 * MIB, -12),
    ]


WORDS = st.sampled_from(
    [
        *(b"7@1.000002:", b"ram_block_discard_range ", b"m0@0x1000 + 0x1000", b": madvise: 1"),
        *(
            b" fallocate: 0 ret: 0",
            b"\n",
            b"\r",
            b"2026-99-99T99:99:99.000000Z ",
            b" m0:10 +10 (-1)",
        ),
        *(b"2026-11-26T17:38:10.214648Z ", b"ram_block_discard_shared_range "),
        *(b"ram_block_discard_range: Failed to discard range", b"\xff", b"@", b": "),
    ]
)


@given(st.lists(WORDS | st.binary(max_size=8), max_size=20).map(b"".join))
def test_no_text_makes_the_parsers_fail(text: bytes) -> None:
    for discard in parse_discards(text):
        assert 0 <= discard.address < 1 << 64
    for failure in parse_failures(text):
        assert failure.at in (None, 1795714690.214648)
