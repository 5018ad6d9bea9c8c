# SPDX-License-Identifier: Apache-2.0
"""The guest's word on each page frame, and what becomes of a tool that ends."""

import struct
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_rounds import decode_pages
from scripted_guest import ScriptedGuest

from harness.errors import DeadlineError, HarnessError, ObserveError, QemuGoneError, SshError
from harness.guest.page_stream import SLACK_PAGES, VERSION, PageReader
from harness.guest.tool_end import last_words
from harness.kernel.pages import GuestState
from harness.units import PAGE_SIZE

HEADER = struct.Struct("<8sIIQQQQ")
FREE, REPORTED, HELD = GuestState.FREE, GuestState.REPORTED, GuestState.HELD


def encode(
    runs: Sequence[tuple[int, int]],
    *,
    pages: int | None = None,
    count: int | None = None,
    magic: bytes = b"FPRPAGES",
    version: int = VERSION,
    page_bytes: int = PAGE_SIZE,
) -> bytes:
    """A round of (state, length); any field of its header can be made to lie."""
    total = sum(length for _, length in runs) if pages is None else pages
    number = len(runs) if count is None else count
    header = HEADER.pack(magic, version, page_bytes, total, 100, 250, number)
    return header + b"".join(struct.pack("<I", length << 3 | state) for state, length in runs)


PFN_END = 1 << 18
"""A guest of 1 GiB."""

ROUND = encode([(FREE, 3), (REPORTED, 1), (FREE, 511), (HELD, 2)])
runs = st.lists(st.tuples(st.sampled_from(list(GuestState)), st.integers(1, 5000)), max_size=30)


@settings(deadline=None)
@given(runs)
def test_every_page_frame_gets_the_state_of_its_run(runs: list[tuple[int, int]]) -> None:
    reading = decode_pages(encode(runs), PFN_END)
    expected = [state for state, length in runs for _ in range(length)]
    assert reading.states.dtype == np.uint8
    assert reading.states.tolist() == expected
    assert (reading.start_ns, reading.end_ns) == (100, 250)


@settings(deadline=None)
@given(runs, st.integers(0, 12000), st.integers(0, 12000))
def test_a_part_of_the_runs_is_the_part_of_the_pages(
    runs: list[tuple[int, int]], start: int, length: int
) -> None:
    data = encode(runs)
    with PageReader(ScriptedGuest(data), PFN_END) as reader:
        read = reader.read_runs()
    pages = decode_pages(data, PFN_END).states
    assert len(read) == len(pages)
    beyond = np.full(length, GuestState.NO_PAGE)
    expected = np.concatenate((pages[start : start + length], beyond))[:length]
    assert read.part(start, start + length).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode([(FREE, 4)], pages=5), "the runs add up to 4 page frames, not 5"),
        (encode([(FREE, 4)], pages=3), "the runs add up to 4 page frames, not 3"),
        (encode([(7, 4)]), "the unknown state 7"),
        (encode([(FREE, 4)], count=5), "5 runs for 4 page frames"),
        (
            encode([], pages=PFN_END + SLACK_PAGES + 1),
            f"0 runs for {PFN_END + SLACK_PAGES + 1} page frames; the guest has about {PFN_END}",
        ),
        (encode([], magic=b"FPRPAGER"), "an unknown format: b'FPRPAGER'"),
        (encode([], version=VERSION + 1), f"version {VERSION + 1}"),
        (encode([], page_bytes=16384), "pages of 16384 bytes"),
    ],
)
def test_a_damaged_round_is_no_reading(data: bytes, words: str) -> None:
    with pytest.raises(ObserveError, match=words):
        decode_pages(data, PFN_END)


@pytest.mark.parametrize("size", [0, HEADER.size - 1, len(ROUND) - 1])
def test_a_round_that_ends_early_is_no_reading(size: int) -> None:
    with pytest.raises((ObserveError, SshError)):
        decode_pages(ROUND[:size], PFN_END)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: ROUND[:48] + tail))
def test_garbage_is_told_as_such(data: bytes) -> None:
    try:
        decode_pages(data, PFN_END)
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


@settings(deadline=None)
@given(st.integers(0, len(ROUND) - 1), st.integers(1, 255))
def test_a_damaged_byte_either_shows_or_keeps_the_number_of_page_frames(
    position: int, change: int
) -> None:
    data = bytearray(ROUND)
    data[position] ^= change
    try:
        states = decode_pages(bytes(data), PFN_END).states
    except (ObserveError, SshError):
        return
    assert len(states) == 517
    assert states.max() <= max(GuestState)


def test_a_reader_keeps_its_process_from_one_reading_to_the_next() -> None:
    second = encode([(HELD, 517)])
    guest = ScriptedGuest(ROUND + second)
    with PageReader(guest, PFN_END, held_by=[41, 42]) as reader:
        assert (reader.read().states == decode_pages(ROUND, PFN_END).states).all()
        assert guest.written == b""
        assert (reader.read().states == HELD).all()
        assert guest.written == b"\n"
        assert not guest.closed
    assert guest.commands == ["fpr-guest pages --held-by 41 --held-by 42"]
    assert guest.closed


@settings(deadline=None)
@given(st.integers(0, len(ROUND) - 1))
def test_a_round_that_breaks_off_is_the_tools_fault_if_the_tool_ended(length: int) -> None:
    guest = ScriptedGuest(ROUND[:length], stderr=b"fpr-guest: open: No such file\n", status=1)
    with (
        PageReader(guest, PFN_END) as reader,
        pytest.raises(ObserveError, match=r"ended \(status 1\): fpr-guest: open: No such file$"),
    ):
        reader.read()


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_garbage_from_a_tool_raises_nothing_strange(data: bytes) -> None:
    with PageReader(ScriptedGuest(data), PFN_END) as reader:
        try:
            reader.read()
        except HarnessError as error:
            assert error.message  # noqa: PT017 - either outcome is right


def test_a_connection_that_breaks_is_not_the_tools_fault() -> None:
    guest = ScriptedGuest(ROUND[:20], broken=SshError("the connection broke"))
    with PageReader(guest, PFN_END) as reader, pytest.raises(SshError, match="ended early"):
        reader.read()


def test_a_tool_that_cannot_be_started_is_not_asked_for_last_words() -> None:
    class Refusing(ScriptedGuest):
        def start(self, command: str) -> ScriptedGuest:
            raise SshError(f"no channel for {command}")

    with PageReader(Refusing(b""), PFN_END) as reader, pytest.raises(SshError, match="no channel"):
        reader.read()


# --- last words ---------------------------------------------------------------------------------


def _words_of(guest: ScriptedGuest) -> str | None:
    return last_words(guest.start("fpr-guest"), SshError("it ended early"))


def test_last_words_are_status_and_stderr() -> None:
    assert _words_of(ScriptedGuest(b"", stderr=b" Killed \n", status=137)) == (
        "it ended (status 137): Killed"
    )


def test_a_tool_that_said_nothing_leaves_the_errors_words() -> None:
    assert _words_of(ScriptedGuest(b"", stderr=b"\n", status=1)) == "it ended early"


def test_last_words_need_not_be_text() -> None:
    assert (
        _words_of(ScriptedGuest(b"", stderr=b"\xff!", status=1)) == "it ended (status 1): \ufffd!"
    )


@pytest.mark.parametrize("broken", [SshError("broke"), DeadlineError("too long")])
def test_a_tool_that_has_not_ended_has_no_last_words(broken: HarnessError) -> None:
    assert _words_of(ScriptedGuest(b"", broken=broken)) is None


def test_qemus_end_is_told_instead_of_last_words() -> None:
    with pytest.raises(QemuGoneError):
        _words_of(ScriptedGuest(b"", broken=QemuGoneError("QEMU ended")))


def test_a_claim_beyond_the_guests_memory_is_refused_before_anything_is_read_or_made() -> None:
    """84 bytes that claim 2^29 page frames once took 10.9 GiB and 127 s."""
    claim = encode([(FREE, (1 << 29) - 1)] * 9)
    tracemalloc.start()
    try:
        with pytest.raises(ObserveError, match="damaged"):
            decode_pages(claim, PFN_END)
        guest = ScriptedGuest(claim[: HEADER.size])
        with PageReader(guest, PFN_END) as reader, pytest.raises(ObserveError, match="damaged"):
            reader.read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
