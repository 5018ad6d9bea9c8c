# SPDX-License-Identifier: Apache-2.0
"""The instruments on a clock."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest
from guest_ram import GuestRamProcess

from harness.deadline import Deadline, wait_for
from harness.errors import ObserveError, RecordError, SshError
from harness.machine.interfaces import GuestShell
from harness.observe import sampler as sampler_module
from harness.observe.discards import DiscardLog
from harness.observe.mapping import HostMappingReader
from harness.observe.sampler import Sampler
from harness.record.events import Sample
from harness.units import MIB, PAGE_SIZE

PAGES = 2048


@dataclass(frozen=True)
class Frame:
    at: float
    raw: bytes
    free_bytes: int


class ScriptedStream:
    """A guest that sends what `frames` holds; None there breaks the connection."""

    frames: "queue.Queue[Frame | None]"

    def __init__(self, _shell: GuestShell, hz: float, *, on_request: bool) -> None:
        assert hz > 0
        self.on_request = on_request

    def read(self) -> Frame:
        frame = self.frames.get(timeout=30.0)
        if frame is None:
            raise SshError("the connection broke off")
        return frame

    def close(self) -> None:
        self.frames.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass
class Bench:
    """A process to look at, a guest that speaks, and the samplers made."""

    child: GuestRamProcess
    directory: Path
    frames: "queue.Queue[Frame | None]"
    samples: list[Sample]
    samplers: list[Sampler]

    def sampler(
        self,
        *,
        hz: float = 20.0,
        sink: Callable[[Sample], None] | None = None,
        on_request: bool = False,
    ) -> Sampler:
        layout = self.child.layout
        sampler = Sampler(
            shell=cast(GuestShell, None),
            mapping=HostMappingReader(self.child.pid, layout),
            discards=DiscardLog(self.directory / "discards.log", layout),
            hz=hz,
            sink=sink or self.samples.append,
            relative=lambda at: at,
            raw_path=self.directory / "guest-counters.bin",
            on_request=on_request,
        )
        self.samplers.append(sampler)
        return sampler

    def sample_by(
        self,
        clock: "Clock",
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        after_each: Callable[[], None] = lambda: None,
    ) -> Sampler:
        """A sampler of 20 Hz by this clock that has made `count` samples and ended."""
        ended = threading.Event()

        def sink(sample: Sample) -> None:
            self.samples.append(sample)
            after_each()
            if len(self.samples) == count:
                clock.set()
                ended.set()

        monkeypatch.setattr(sampler_module, "time", clock)
        sampler = self.sampler(sink=sink)
        sampler._stopping = clock
        sampler.start()
        assert ended.wait(10.0), "the samples do not come"
        sampler.stop()
        return sampler

    def wait_for_samples(self, count: int) -> None:
        end, target = time.monotonic() + 10.0, len(self.samples) + count
        while len(self.samples) < target:
            assert time.monotonic() < end, "the samples do not come"
            time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "discards.log").touch()
    frames: queue.Queue[Frame | None] = queue.Queue()
    stream: Any = type("Stream", (ScriptedStream,), {"frames": frames})
    monkeypatch.setattr(sampler_module, "CounterStream", stream)
    with GuestRamProcess(PAGES, "small-pages") as child:
        bench = Bench(child, tmp_path, frames, [], [])
        yield bench
        for sampler in bench.samplers:
            sampler.stop()
    assert not {"sampler", "guest-counters"} & {thread.name for thread in threading.enumerate()}


class Clock(threading.Event):
    """Time that passes only as the sampler waits, and the event by which it is told to stop.

    It stands in for the sampler's `time` too, so that no load of the machine plays a part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.busy = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        """Every look at it finds 2.1 ms more spent."""
        self.busy += 0.0021
        return self.busy

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass, and wake up a little late, as one does."""
        assert timeout is not None
        self.now += timeout + 0.001
        return self.is_set()


def test_a_sample_joins_what_every_instrument_saw(bench: Bench) -> None:
    bench.child.do("write(range(0, 1000))")
    (bench.directory / "discards.log").write_text(
        f"1@2.000003:ram_block_discard_range m0@{bench.child.hva:#x} + {MIB:#x}: "
        "madvise: 1 fallocate: 0 ret: 0\n"
    )
    sampler = bench.sampler()
    bench.frames.put(Frame(time.monotonic(), b"raw", 77 * MIB))
    sampler.start()
    bench.wait_for_samples(2)
    sample = bench.samples[-1]
    assert sampler.latest == bench.samples[-1]
    assert sampler.failures == ()
    assert (sample.guest_free, sample.discarded) == (77 * MIB, MIB)
    assert sample.rss == sample.held
    assert sample.rss == pytest.approx(1000 * PAGE_SIZE, abs=128 * PAGE_SIZE)


def test_the_first_sample_is_exact(bench: Bench) -> None:
    bench.child.do("write(range(0, 1000))")
    bench.sampler().start()
    bench.wait_for_samples(1)
    first = bench.samples[0]
    assert (first.rss, first.lazyfree) == (1000 * PAGE_SIZE, 0)


def test_exact_readings_come_as_often_as_their_share_of_a_core_allows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lazily freed memory is known to exact readings only."""
    bench.sample_by(Clock(), monkeypatch, 12)
    # 2.1 ms are 1 % of 210 ms, in which four samples of 20 Hz fit.
    assert [sample.lazyfree for sample in bench.samples] == [0, *[None] * 4] * 2 + [0, None]


def test_raw_frames_are_kept(bench: Bench) -> None:
    sampler = bench.sampler()
    sampler.start()
    for text in (b"one", b"two"):
        bench.frames.put(Frame(time.monotonic(), text, 0))
    bench.wait_for_samples(1)
    sampler.stop()
    assert (bench.directory / "guest-counters.bin").read_bytes() == b"onetwo"


def test_a_guest_that_answers_on_request_can_be_left_alone(bench: Bench) -> None:
    """What it does to answer would be in what is measured by its clock."""
    sampler = bench.sampler(on_request=True)
    bench.frames.put(Frame(time.monotonic(), b"raw", 0))
    with sampler.unasked():
        sampler.start()
        bench.wait_for_samples(2)
        assert bench.frames.qsize() == 1
    wait_for(lambda: bench.frames.empty() or None, Deadline(10.0, "the guest to be asked"))


def test_a_guest_that_floods_its_counters_fills_no_disk(bench: Bench) -> None:
    sampler = bench.sampler()
    for _ in range(500):
        bench.frames.put(Frame(time.monotonic(), b"x" * 100, 0))
    sampler.start()
    wait_for(lambda: sampler.failures or None, Deadline(10.0, "the flood to be noticed"))
    bench.wait_for_samples(1)
    sampler.stop()
    assert "counters over 4 times as often as asked for" in str(sampler.failures[0])
    assert (bench.directory / "guest-counters.bin").stat().st_size < 500 * 100


def test_an_old_guest_counter_is_no_sample_of_now(bench: Bench) -> None:
    bench.frames.put(Frame(time.monotonic() - 5.0, b"", 77 * MIB))
    bench.sampler().start()
    bench.wait_for_samples(2)
    assert bench.samples[-1].guest_free is None


def test_an_instrument_that_fails_gives_none_and_is_reported_once(bench: Bench) -> None:
    sampler = bench.sampler()
    (bench.directory / "discards.log").unlink()
    sampler.start()
    bench.wait_for_samples(3)
    assert {sample.discarded for sample in bench.samples} == {None}
    assert None not in {sample.rss for sample in bench.samples}
    (failure,) = sampler.failures
    assert isinstance(failure, ObserveError)
    assert "cannot see what QEMU discards" in failure.message


def test_a_guest_that_breaks_off_is_reported_and_the_host_still_sampled(bench: Bench) -> None:
    sampler = bench.sampler()
    sampler.start()
    bench.frames.put(None)
    bench.wait_for_samples(3)
    assert [type(failure) for failure in sampler.failures] == [SshError]
    assert bench.samples[-1].guest_free is None
    assert bench.samples[-1].rss is not None


def test_a_stop_does_not_wait_for_a_guest_that_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(ScriptedStream):
        frames = bench.frames

        def __enter__(self) -> Self:
            self.read()
            return self

    monkeypatch.setattr(sampler_module, "CounterStream", Silent)
    sampler = bench.sampler()
    sampler.start()
    bench.wait_for_samples(1)
    sampler.stop()  # that it waited in vain would be one more failure
    assert sampler.failures == ()


def test_qemus_death_does_not_stop_the_sampler_from_ending(bench: Bench) -> None:
    sampler = bench.sampler()
    sampler.start()
    bench.wait_for_samples(1)
    bench.child.end()
    bench.wait_for_samples(3)
    sampler.stop()  # that it waited in vain would be one more failure
    assert (bench.samples[-1].held, bench.samples[-1].rss) == (None, None)
    assert [type(failure) for failure in sampler.failures] == [ObserveError]


def test_stopping_is_no_failure_and_may_be_done_twice(bench: Bench) -> None:
    sampler = bench.sampler()
    sampler.start()
    bench.wait_for_samples(1)
    sampler.stop()
    sampler.stop()
    count = len(bench.samples)
    assert sampler.failures == ()
    time.sleep(0.2)
    assert len(bench.samples) == count


def test_results_that_cannot_be_written_are_a_failure(bench: Bench) -> None:
    def full(_sample: Sample) -> None:
        raise RecordError("no space left on device")

    sampler = bench.sampler(sink=full)
    sampler.start()
    end = time.monotonic() + 5.0
    while not sampler.failures and time.monotonic() < end:
        time.sleep(0.01)
    assert [type(failure) for failure in sampler.failures] == [RecordError]


def test_the_schedule_does_not_drift_and_what_is_lost_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample holds the clock up for five periods; the later ones are on time again."""
    clock = Clock()

    def hold_up() -> None:
        if len(bench.samples) == 5:
            clock.now += 0.25

    sampler = bench.sample_by(clock, monkeypatch, 20, hold_up)
    ticks = [(sample.t - 1000.0) * 20.0 for sample in bench.samples]
    assert [round(tick) for tick in ticks] == [1, 2, 3, 4, 5, *range(10, 25)]
    assert sampler.lost == 4
    assert max(abs(tick - round(tick)) for tick in ticks) < 0.1


def test_exception_that_nobody_expected_ends_the_run_in_its_own_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left in the sampler's thread it would end the samples without a word."""
    sampler = bench.sampler()

    def broken() -> None:
        raise KeyError("DMA32")

    monkeypatch.setattr(sampler, "_sample", broken)
    sampler.start()
    wait_for(
        lambda: None if any(t.name == "sampler" for t in threading.enumerate()) else True,
        Deadline(5.0, "the sampler to break"),
    )
    with pytest.raises(KeyError, match="DMA32"):
        sampler.stop()
    sampler.stop()  # it is told once
