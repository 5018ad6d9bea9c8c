# SPDX-License-Identifier: Apache-2.0
"""QEMU's discards of guest RAM, from its trace as it grows."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import least_seconds

from harness.errors import ObserveError
from harness.observe.discards import DiscardLog
from harness.observe.ram_layout import RamBlock, RamLayout
from harness.record.address_map import RamPiece
from harness.record.facts import DiscardTotals
from harness.units import GIB, MIB, PAGE_SIZE

DATA = Path(__file__).parents[2] / "data" / "observe"
HVA = 0x7FB133E00000
LAYOUT = RamLayout(
    pieces=(
        RamPiece(0, 0xA0, "m0", 0, HVA),
        RamPiece(0x100, 0x20000, "m0", MIB, HVA + MIB),
        RamPiece(0x100000, 0x120000, "m0", 512 * MIB, HVA + 512 * MIB),
    ),
    blocks=(RamBlock("m0", GIB, PAGE_SIZE, HVA),),
)


def line(offset: int, length: int, status: int = 0, stamp: str = "4931@1795447012.605409:") -> str:
    return (
        f"{stamp}ram_block_discard_range m0@{HVA + offset:#x} + {length:#x}: "
        f"madvise: 1 fallocate: 0 ret: {status}\n"
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "discards.log"
    path.touch()
    return path


def test_a_real_trace_of_a_whole_block_discarded_at_start_and_at_reset() -> None:
    """Its first line names no block: the address decides."""
    reader = DiscardLog(DATA / "discards-anonymous.log", LAYOUT)
    assert reader.read() == DiscardTotals(3, 3 * GIB, 0, 0)
    assert reader.covered[:0xA0].all()
    assert not reader.covered[0xA0:0x100].any(), "no RAM backs the VGA window"
    assert reader.covered[0x100:0x20000].all()
    assert not reader.covered[0x20000:0x100000].any(), "the hole below 4 GiB"
    assert reader.covered[0x100000:].all()


def test_discards_of_other_blocks_are_not_the_guests() -> None:
    reader = DiscardLog(DATA / "discards-memfd.log", LAYOUT)
    assert reader.read() == DiscardTotals(0, 0, 0, 0)
    assert not reader.covered.any()
    assert reader.last_at is None


def test_a_discard_over_the_hole_covers_both_sides(log: Path) -> None:
    log.write_text(line(511 * MIB, 2 * MIB))
    reader = DiscardLog(log, LAYOUT)
    reader.read()
    assert np.array_equal(
        np.flatnonzero(reader.covered),
        np.concatenate([np.arange(0x1FF00, 0x20000), np.arange(0x100000, 0x100100)]),
    )


def test_only_whole_pages_are_covered(log: Path) -> None:
    log.write_text(line(2 * MIB + 100, 2 * PAGE_SIZE))
    reader = DiscardLog(log, LAYOUT)
    reader.read()
    assert np.flatnonzero(reader.covered).tolist() == [0x201]


def test_failed_discards_are_counted_apart_and_cover_nothing(log: Path) -> None:
    log.write_text(line(4 * MIB, 2 * MIB, status=-22) + line(8 * MIB, 4 * MIB))
    reader = DiscardLog(log, LAYOUT)
    assert reader.read() == DiscardTotals(1, 4 * MIB, 1, 2 * MIB, errno=22)
    assert np.count_nonzero(reader.covered) == 1024
    assert not reader.covered[0x400:0x600].any()


def test_it_is_read_as_it_grows_and_a_half_written_line_waits(log: Path) -> None:
    reader = DiscardLog(log, LAYOUT)
    assert reader.read().calls == 0
    first, second = line(2 * MIB, 2 * MIB), line(4 * MIB, 4 * MIB)
    with log.open("a") as writer:
        writer.write(first + second[:60])
        writer.flush()
        assert reader.read() == DiscardTotals(1, 2 * MIB, 0, 0)
        writer.write(second[60:-1])
        writer.flush()
        assert reader.read().calls == 1
        writer.write("\n")
        writer.flush()
        assert reader.read() == DiscardTotals(2, 6 * MIB, 0, 0)
        assert reader.read() == DiscardTotals(2, 6 * MIB, 0, 0)


def test_other_lines_are_passed_over(log: Path) -> None:
    log.write_text(
        "qemu: warning: something\n\n" + line(2 * MIB, MIB) + "\x00\n7@1.000002:other x\n"
    )
    assert DiscardLog(log, LAYOUT).read().calls == 1


def test_the_last_movement_is_told_on_the_hosts_monotonic_clock(log: Path) -> None:
    """What came later was no guest RAM."""
    wall, now = time.time(), time.monotonic()
    stamps = [f"7@{wall - ago:.6f}:" for ago in (8.0, 3.0, 2.0)]
    offsets = (2 * MIB, 2 * MIB, 2 * GIB)
    log.write_text(
        "".join(line(at, MIB, stamp=stamp) for at, stamp in zip(offsets, stamps, strict=True))
    )
    reader = DiscardLog(log, LAYOUT)
    reader.read()
    assert reader.last_at == pytest.approx(now - 3.0, abs=0.05)


def test_without_stamps_the_last_movement_is_the_moment_of_reading(log: Path) -> None:
    log.write_text(line(2 * MIB, MIB, stamp=""))
    reader = DiscardLog(log, LAYOUT)
    reader.read()
    assert reader.last_at == pytest.approx(time.monotonic(), abs=0.5)


def test_a_missing_trace_is_an_error_and_not_an_absence_of_discards(tmp_path: Path) -> None:
    with pytest.raises(ObserveError, match="cannot see what QEMU discards: "):
        DiscardLog(tmp_path / "none.log", LAYOUT).read()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "was deleted"),
        (lambda path: path.write_bytes(b""), "shrank"),
        (lambda path: path.write_bytes(bytes(9000)), "was overwritten"),
        (
            lambda path: (path.unlink(), path.write_bytes(bytes(9000))),
            "was replaced|was overwritten",
        ),
    ],
)
@pytest.mark.parametrize("which", ["trace", "errors"])
def test_a_log_that_is_no_longer_the_one_read_before_is_an_error(
    tmp_path: Path, which: str, harm: Callable[[Path], object], words: str
) -> None:
    """Read on, it would say that nothing was discarded, or nothing failed."""
    logs = {"trace": tmp_path / "discards.log", "errors": tmp_path / "qemu.log"}
    for path in logs.values():
        path.write_bytes(b"7@1.000002:something else\n" * 9)
    discards = DiscardLog(logs["trace"], LAYOUT, errors=logs["errors"])
    assert discards.read().calls == 0
    harm(logs[which])
    with pytest.raises(ObserveError, match=words):
        discards.read()


def test_a_hundred_thousand_lines_take_less_than_a_second(log: Path) -> None:
    log.write_text("".join(line(n % 250 * 4 * MIB, 4 * MIB) for n in range(100_000)))
    assert DiscardLog(log, LAYOUT).read().calls == 100_000
    assert least_seconds(lambda: DiscardLog(log, LAYOUT).read()) < 1.0


LINE = line(2 * MIB, 2 * MIB)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([LINE, LINE[:-1], LINE[:70], line(0, 1 << 63, stamp="")]).map(str.encode)
        | st.binary(max_size=40),
        max_size=8,
    )
)
def test_no_text_makes_the_reader_fail(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "discards.log"
    reader = DiscardLog(path, LAYOUT)
    with suppress(ObserveError), path.open("ab", buffering=0) as writer:
        for part in parts:
            writer.write(part)
            reader.read()


def test_a_discard_that_failed_is_told_only_on_standard_error(log: Path, tmp_path: Path) -> None:
    """As QEMU 7.2 words it, with ENOMEM from madvise."""
    errors = tmp_path / "qemu.log"
    errors.write_text(
        "2026-11-23T19:41:07.140402Z qemu-system-x86_64: ram_block_discard_range: "
        "Failed to discard range m0:3c00000 +200000 (-12)\n"
        "qemu-system-x86_64: warning: something else\n"
    )
    reader = DiscardLog(log, LAYOUT, errors=errors)
    log.write_text(line(0, 2 * MIB))
    assert reader.read() == DiscardTotals(1, 2 * MIB, 1, 2 * MIB, errno=12)
    assert reader.read() == DiscardTotals(1, 2 * MIB, 1, 2 * MIB, errno=12)


def test_what_is_followed_is_told_once_and_with_its_time(log: Path) -> None:
    reader = DiscardLog(log, LAYOUT)
    log.write_text(line(MIB, 2 * PAGE_SIZE))
    reader.read()
    assert reader.followed() == [], "nobody had asked"
    reader.follow()
    before = time.monotonic()
    with log.open("a") as more:
        more.write(line(2 * MIB, 2 * PAGE_SIZE, stamp=""))
        more.write(line(512 * MIB - PAGE_SIZE, 2 * PAGE_SIZE, stamp=""))
    reader.read()
    places = [(first, last) for at, first, last in reader.followed() if at >= before]
    assert places == [(0x200, 0x202), (0x1FFFF, 0x20000), (0x100000, 0x100001)]
    assert reader.followed() == []
    reader.unfollow()
    with log.open("a") as more:
        more.write(line(4 * MIB, PAGE_SIZE))
    reader.read()
    assert reader.followed() == []


def test_a_trace_that_has_reached_its_limit_is_stopped_and_no_longer_believed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.observe.discards.TRACE_BYTES", 1000)
    stopped: list[str] = []
    reader = DiscardLog(log, LAYOUT, stop=lambda: stopped.append("once"))
    log.write_text(line(0, 2 * MIB))
    assert reader.read().calls == 1
    log.write_text(line(0, 2 * MIB) * 20)
    for _ in range(2):
        with pytest.raises(ObserveError, match="the limit of QEMU's trace of discards"):
            reader.read()
    assert stopped == ["once"]
