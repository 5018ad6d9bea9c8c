# SPDX-License-Identifier: Apache-2.0
"""The guest's counters, timed by the host's clock."""

import struct
import time
from collections import deque
from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_guest import ScriptedGuest

from harness.errors import DeadlineError, GuestError, HarnessError, ObserveError, SshError
from harness.guest import counter_stream
from harness.guest.counter_stream import (
    PINGS,
    VERSION,
    ClockMap,
    CounterFrame,
    CounterStream,
    read_counters,
)

SECOND = 1_000_000_000
MEMINFO = b"MemTotal:        1000 kB\nMemFree:          250 kB\n"
VMSTAT = b"pgfault 12\n"
BUDDYINFO = b"Node 0, zone    DMA32      1      2      3\n"
ZONEINFO = b"""Node 0, zone    DMA32
  pages free     17
        min      1
        low      2
        high     3
        spanned  100
        present  90
        managed  80
  start_pfn:           4096
"""
TEXTS = (MEMINFO, VMSTAT, BUDDYINFO, ZONEINFO)


def frame(
    sequence: int = 0,
    *,
    missed: int = 0,
    planned: int = SECOND,
    actual: int = SECOND + 5_000_000,
    texts: tuple[bytes, bytes, bytes, bytes] = TEXTS,
    magic: bytes = b"FPRC",
    version: int = VERSION,
) -> bytes:
    head = struct.pack(
        "<4sIQQQQ4I", magic, version, sequence, missed, planned, actual, *map(len, texts)
    )
    return head + b"".join(texts)


def pong(number: int, now: int = SECOND) -> bytes:
    return struct.pack("<4sIQQ", b"FPRP", VERSION, number, now)


HAND_SHAKE = b"".join(pong(number) for number in range(1, PINGS + 1))


def test_the_hand_shake_maps_the_guests_clock_to_the_hosts() -> None:
    guest = ScriptedGuest(HAND_SHAKE)
    before = time.monotonic()
    with CounterStream(guest, hz=10.0) as stream:
        after = time.monotonic()
        assert before <= stream.clock.to_host(SECOND) <= after
        assert 0.0 <= stream.clock.error <= after - before
    assert guest.commands == ["fpr-guest counters --hz 10"]
    assert guest.written == b"ping 1\nping 2\nping 3\nping 4\nping 5\n"
    assert guest.closed


def test_the_shortest_round_trip_is_the_best_witness() -> None:
    """The guest's clock stands at 1 s in truth; slow answers are late by half a second."""

    class Uneven(ScriptedGuest):
        def write(self, data: bytes) -> None:
            if data != b"ping 3\n":
                time.sleep(0.02)

    start = time.monotonic()
    answers = b"".join(pong(n, SECOND if n == 3 else SECOND // 2) for n in range(1, PINGS + 1))
    with CounterStream(Uneven(answers), hz=10.0) as stream:
        assert stream.clock.error < 0.01
        assert start <= stream.clock.to_host(SECOND) <= time.monotonic()


def test_frames_that_come_during_the_hand_shake_are_passed_over() -> None:
    answers = b"".join(frame(n) + pong(n) for n in range(1, PINGS + 1))
    with CounterStream(ScriptedGuest(answers + frame(9)), hz=10.0) as stream:
        assert stream.read().sequence == 9


def test_a_guest_that_never_answers_pings_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(ScriptedGuest):
        def __init__(self) -> None:
            super().__init__(b"")
            self._bytes = cycle(frame())

        def read_exactly(self, size: int, timeout: float) -> bytes:
            del timeout
            return bytes(next(self._bytes) for _ in range(size))

    monkeypatch.setattr(counter_stream, "START_SECONDS", 0.1)
    guest = Endless()
    with pytest.raises(DeadlineError, match="pings"), CounterStream(guest, hz=10.0):
        raise AssertionError("no hand-shake took place")
    assert guest.closed, "nothing runs on in the guest"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (pong(1) + pong(7), "answered ping 7 instead of 2"),
        (frame(magic=b"FPRX"), "unknown format: b'FPRX', version 1"),
        (frame(version=2), "unknown format: b'FPRC', version 2"),
    ],
)
def test_a_failed_hand_shake_leaves_nothing_running(answers: bytes, words: str) -> None:
    guest = ScriptedGuest(answers)
    with pytest.raises(ObserveError, match=words), CounterStream(guest, hz=10.0):
        raise AssertionError("no hand-shake took place")
    assert guest.closed


def test_a_frame_is_timed_by_the_hosts_clock_and_kept_raw() -> None:
    raw = frame(3, missed=2)
    with CounterStream(ScriptedGuest(HAND_SHAKE + raw), hz=10.0) as stream:
        read = stream.read()
        assert read.at == pytest.approx(stream.clock.to_host(SECOND) + 0.005, abs=1e-6)
        assert read.planned_at == stream.clock.to_host(SECOND)
    assert (read.sequence, read.missed, read.texts, read.raw) == (3, 2, TEXTS, raw)


def test_a_frame_holds_all_counters() -> None:
    with CounterStream(ScriptedGuest(HAND_SHAKE + frame()), hz=10.0) as stream:
        read = stream.read()
    counters = read.parse()
    assert read.free_bytes == counters.meminfo["MemFree"] == 250 * 1024
    assert counters.at == read.at
    assert counters.vmstat == {"pgfault": 12}
    (zone,) = counters.zones
    assert (zone.name, zone.free, zone.free_blocks) == ("DMA32", 17, (1, 2, 3))


def test_a_ping_nobody_sent_is_told() -> None:
    with (
        CounterStream(ScriptedGuest(HAND_SHAKE + pong(6)), hz=10.0) as stream,
        pytest.raises(ObserveError, match="a ping that the harness did not send"),
    ):
        stream.read()


def test_the_end_of_the_tool_ends_the_reading() -> None:
    with (
        CounterStream(ScriptedGuest(HAND_SHAKE + frame()[:100]), hz=10.0) as stream,
        pytest.raises(SshError),
    ):
        stream.read()


FRAME = CounterFrame(0.0, 0.0, 0, 0, TEXTS, b"")
texts = st.binary(max_size=80) | st.sampled_from(TEXTS).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda length: text[:length])
)


@pytest.mark.parametrize("number", [b"", b"x", b"-5", b"9" * 5000])
def test_free_memory_that_is_no_number_is_told(number: bytes) -> None:
    read = replace(FRAME, texts=(b"MemFree: %s kB\n" % number, VMSTAT, BUDDYINFO, ZONEINFO))
    with pytest.raises(ObserveError, match="MemFree"):
        _ = read.free_bytes


@settings(deadline=None)
@given(st.tuples(texts, texts, texts, texts))
def test_garbled_texts_raise_nothing_strange(garbled: tuple[bytes, bytes, bytes, bytes]) -> None:
    read = replace(FRAME, texts=garbled)
    try:
        read.parse()
        _ = read.free_bytes
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


@settings(deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: frame()[:30] + tail))
def test_garbage_raises_nothing_strange(data: bytes) -> None:
    try:
        with CounterStream(ScriptedGuest(HAND_SHAKE + data), hz=10.0) as stream:
            stream.read()
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


def test_a_claim_of_longer_texts_than_the_tool_has_room_for_is_refused() -> None:
    """The four lengths of a header can claim 16 GiB."""
    head = struct.pack("<4sIQQQQ4I", b"FPRC", VERSION, 0, 0, 0, 0, *[0xFFFFFFFF] * 4)
    with (
        CounterStream(ScriptedGuest(HAND_SHAKE + head), hz=10.0) as stream,
        pytest.raises(ObserveError, match="17179869180 bytes, more than its buffer"),
    ):
        stream.read()


def test_more_frames_than_are_due_end_the_stream() -> None:
    """They are kept on disk, and a guest could fill it."""
    guest = ScriptedGuest(HAND_SHAKE + frame() * 200)
    with CounterStream(guest, hz=1.0) as stream, pytest.raises(ObserveError, match="were due"):
        deque(iter(stream.read, None))


def test_the_clock_is_an_offset() -> None:
    assert ClockMap(offset=1000.0, error=0.001).to_host(5 * SECOND) == 1005.0


# --- once ---------------------------------------------------------------------------------------


def test_counters_can_be_read_once() -> None:
    guest = ScriptedGuest(frame())
    counters = read_counters(guest)
    assert guest.commands == ["fpr-guest counters --once"]
    assert counters.at == pytest.approx(time.monotonic(), abs=5.0)
    assert counters.meminfo["MemTotal"] == 1000 * 1024


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "0 bytes that are not counters"),
        (frame()[:55], "55 bytes that are not counters"),
        (pong(1) + bytes(100), "not counters"),
        (frame(version=2), "not counters"),
        (frame()[:-1], "bytes, not"),
        (frame() + b"!", "bytes, not"),
    ],
)
def test_damaged_counters_are_told(answer: bytes, words: str) -> None:
    with pytest.raises(ObserveError, match=words):
        read_counters(ScriptedGuest(answer))


@settings(deadline=None)
@given(st.binary(max_size=300) | st.integers(0, 300).map(lambda length: frame()[:length]))
def test_garbled_counters_raise_nothing_strange(data: bytes) -> None:
    try:
        read_counters(ScriptedGuest(data))
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


def test_a_tool_that_fails_is_the_guests_fault() -> None:
    with pytest.raises(GuestError):
        read_counters(ScriptedGuest(b"", status=1))
