# SPDX-License-Identifier: Apache-2.0
"""`counters`, read by the harness's own reader."""

import re
import struct
import time
from pathlib import Path

import pytest
from local_guest import LocalProcess, LocalShell

from harness.errors import SshError
from harness.guest.counter_stream import CounterFrame, CounterStream, read_counters


def test_the_hand_shake_maps_the_tools_clock_to_ours(shell: LocalShell) -> None:
    """Here both are one clock."""
    with CounterStream(shell, hz=50.0) as stream:
        assert abs(stream.clock.offset) <= stream.clock.error
        assert stream.clock.error < 0.1
        before = time.monotonic()
        frame = stream.read()
        assert frame.at == pytest.approx(before, abs=1.0)


def test_frames_come_at_the_rate(shell: LocalShell) -> None:
    with CounterStream(shell, hz=50.0) as stream:
        frames = [stream.read() for _ in range(25)]
    _assert_on_schedule(frames, hz=50.0)
    late = [frame.at - frame.planned_at for frame in frames]
    assert min(late) >= 0.0
    assert sorted(late)[len(late) // 2] < 0.01


def _assert_on_schedule(frames: list[CounterFrame], hz: float) -> None:
    """Every tick is either a frame or told as missed, and none shifts the next."""
    first = frames[0]
    for number, frame in enumerate(frames):
        assert frame.sequence == first.sequence + number
        ticks = number + frame.missed - first.missed
        assert frame.planned_at - first.planned_at == pytest.approx(ticks / hz, abs=1e-5)


def test_ticks_that_nobody_took_are_told_not_made_up_for(shell: LocalShell) -> None:
    with CounterStream(shell, hz=200.0) as stream:
        frames = [stream.read()]
        time.sleep(0.5)
        while frames[-1].missed == frames[0].missed:
            frames.append(stream.read())
            assert len(frames) < 1000
        frames += [stream.read() for _ in range(5)]
    _assert_on_schedule(frames, hz=200.0)
    assert frames[-1].missed - frames[0].missed > 10


def test_counters_are_those_of_proc(shell: LocalShell) -> None:
    with CounterStream(shell, hz=20.0) as stream:
        frame = stream.read()
    for counters in (frame.parse(), read_counters(shell)):
        total = re.findall(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
        assert counters.meminfo["MemTotal"] == int(total[0]) * 1024
        assert counters.vmstat["pgfault"] > 0
        names = re.findall(r"zone +(\w+)", Path("/proc/buddyinfo").read_text())
        assert {zone.name for zone in counters.zones} <= set(names)
        assert counters.at == pytest.approx(time.monotonic(), abs=10.0)
    assert frame.free_bytes == frame.parse().meminfo["MemFree"]


@pytest.mark.parametrize("hz", ["0.1", "1000"])
def test_counters_end_with_their_input(shell: LocalShell, hz: str) -> None:
    result = shell.run(f"fpr-guest counters --hz {hz}", stdin=b"ping 5\n", timeout=5.0)
    assert result.stderr == b""
    assert struct.pack("<4sIQ", b"FPRP", 1, 5) in result.stdout


def test_counters_that_end_wake_their_reader(shell: LocalShell) -> None:
    class Kept(LocalShell):
        process: LocalProcess

        def start(self, command: str) -> LocalProcess:
            self.process = shell.start(command)
            return self.process

    kept = Kept(Path())
    with CounterStream(kept, hz=0.1) as stream:
        kept.process.kill()
        with pytest.raises(SshError, match="ended early"):
            stream.read()


def test_on_request_a_frame_comes_for_each_question_and_none_by_itself(shell: LocalShell) -> None:
    with CounterStream(shell, hz=200.0, on_request=True) as stream:
        time.sleep(0.05)  # ten periods
        before = time.monotonic()
        frames = [stream.read() for _ in range(3)]
        assert [frame.sequence for frame in frames] == [0, 1, 2]
        assert all(frame.at >= before for frame in frames)
        assert frames[0].free_bytes > 0
