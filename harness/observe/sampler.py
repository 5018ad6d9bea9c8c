# SPDX-License-Identifier: Apache-2.0
"""Reads the instruments at a fixed rate in the background while a scenario acts.

One thread receives the guest's counters and appends them raw to a file; the other reads the host at
fixed times and passes on a `Sample` that joins both.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from harness.deadline import Deadline
from harness.errors import GuestError, HarnessError, ObserveError
from harness.guest.counter_stream import CounterStream
from harness.machine.interfaces import GuestShell
from harness.observe.instruments import DiscardReader, MappingReader, ThreadReader
from harness.record.events import Sample
from harness.run_log import RunThread

EXACT_SHARE = 0.01
"""Share of one core that exact readings of the host mapping may take (smaps walks page tables:
15 ms per GiB of 4 KiB pages); the samples in between use the process's counters."""

HASTE = 4
"""What a guest's clock may be fast, with room for what a busy host has held back."""

ASKED_SECONDS = 0.5
"""The least time between two requests to a guest with a virtual clock, whose only vCPU has to stop
its work to answer."""

STALE_SECONDS = 1.0
"""A sample leaves out a guest counter older than this."""

T = TypeVar("T")

LOG = logging.getLogger(__name__)

_ON_THE_HOST = _DISCARDS, _MAPPING = "discards", "mapping"


class Sampler:
    """Calls `sink` with a `Sample` `hz` times a second, from `start` to `stop`.

    The times follow a fixed schedule, so that a late sample does not shift the next; a sample that
    would be a whole period late is left out and counted in `lost`. If an instrument fails, its
    values are None and its first error is kept in `failures`. A sample whose `lazyfree` and `huge`
    are None comes from `read_quick`. `relative` converts host monotonic seconds to `Sample.t`; the
    guest's raw frames go to `raw_path`.
    """

    def __init__(
        self,
        *,
        shell: GuestShell,
        mapping: MappingReader,
        discards: DiscardReader,
        threads: ThreadReader | None = None,
        hz: float,
        sink: Callable[[Sample], None],
        relative: Callable[[float], float],
        raw_path: Path,
        on_request: bool = False,
    ) -> None:
        """`on_request`: the guest sends its counters only when asked, see `CounterStream`."""
        self._shell = shell
        self._on_request = on_request
        self._mapping = mapping
        self._discards = discards
        self._threads_of_qemu = threads
        self._hz = hz
        self._sink = sink
        self._relative = relative
        self._raw_path = raw_path
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._failures: dict[str, HarnessError] = {}
        self._defect: Exception | None = None
        self._stream: CounterStream | None = None
        self._guest_free: tuple[float, int | None] = (0.0, None)
        self._next_exact = 0.0
        self._threads = (
            RunThread(target=self._guard, args=(self._receive,), name="guest-counters"),
            RunThread(target=self._guard, args=(self._run,), name="sampler"),
        )
        self.latest: Sample | None = None
        """The last sample, for a display."""
        self.lost = 0
        """Number of samples left out because they were late."""

    @property
    def failures(self) -> tuple[HarnessError, ...]:
        """The first error of each instrument that failed."""
        with self._lock:
            return tuple(self._failures.values())

    @property
    def blind(self) -> tuple[HarnessError, ...]:
        """The failures of the instruments on the host, which audits read too."""
        with self._lock:
            return tuple(self._failures[name] for name in _ON_THE_HOST if name in self._failures)

    def start(self) -> None:
        """Begin sampling; returns at once."""
        LOG.debug("sampling %g times a second", self._hz)
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End both threads within `timeout` seconds; one that still runs then is a failure.

        May be called again. Raises the unexpected exception that ended a thread, if any.
        """
        self._stopping.set()
        deadline = Deadline(timeout, "the sampler to end")
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(deadline.remaining)
                if thread.is_alive():
                    self._fail(thread.name, deadline.error(f"the thread {thread.name} still runs"))
        if self._defect is not None:
            defect, self._defect = self._defect, None
            raise defect

    @contextmanager
    def unasked(self) -> Iterator[None]:
        """Ask the guest for nothing meanwhile, where it sends its counters only on request."""
        with self._asking:
            yield

    def _run(self) -> None:
        period = 1.0 / self._hz
        start = time.monotonic()
        tick = 0
        while True:
            tick += 1
            late = int((time.monotonic() - start) / period) - tick
            if late > 0:
                tick += late
                self.lost += late
            if self._stopping.wait(max(0.0, start + tick * period - time.monotonic())):
                return
            sample = self._sample()
            self.latest = sample
            self._sink(sample)

    def _sample(self) -> Sample:
        at = time.monotonic()
        guest_at, guest_free = self._guest_free
        discards = self._look(_DISCARDS, self._discards.read)
        host = self._look(_MAPPING, self._host) or (None, None, None, None)
        held, rss, lazyfree, huge = host
        threads = self._threads_of_qemu
        cpu = self._look("threads", threads.read) if threads is not None else None
        return Sample(
            t=self._relative(at),
            held=held,
            rss=rss,
            lazyfree=lazyfree,
            discarded=discards.bytes if discards is not None else None,
            guest_free=guest_free if at - guest_at <= STALE_SECONDS else None,
            huge=huge,
            cpu_main=round(cpu.main, 4) if cpu is not None else None,
            cpu_vcpus=round(cpu.vcpus, 4) if cpu is not None else None,
            cpu_others=round(cpu.others, 4) if cpu is not None else None,
        )

    def _host(self) -> tuple[int, int, int | None, int | None]:
        if time.monotonic() < self._next_exact:
            quick = self._mapping.read_quick()
            return quick.held, quick.rss, None, None
        busy = time.thread_time()
        exact = self._mapping.read()
        cost = time.thread_time() - busy
        self._next_exact = time.monotonic() + cost / EXACT_SHARE
        return exact.held, exact.rss, exact.lazyfree, exact.anon_huge

    def _look(self, name: str, instrument: Callable[[], T]) -> T | None:
        try:
            return instrument()
        except HarnessError as error:
            self._fail(name, error)
            return None

    def _receive(self) -> None:
        stream = CounterStream(self._shell, self._hz, on_request=self._on_request)
        with self._lock:
            self._stream = stream  # before it starts, so that `stop` can interrupt the start
        with closing(stream), stream, self._raw_path.open("ab") as raw:
            began, frames = time.monotonic(), 0
            while not self._stopping.is_set():
                with self._asking if self._on_request else nullcontext():
                    frame = stream.read()
                frames += 1
                if frames > HASTE * (self._hz * (time.monotonic() - began) + self._hz):
                    raise GuestError(
                        f"the guest sends its counters over {HASTE} times as often as asked for, "
                        f"which was {self._hz:g} times a second"
                    )
                raw.write(frame.raw)
                self._guest_free = (frame.at, frame.free_bytes)
                if self._on_request:
                    self._stopping.wait(max(ASKED_SECONDS, 1.0 / self._hz))

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work; an error is a failure, unless `stop` caused it."""
        try:
            work()
        except HarnessError as error:
            if not self._stopping.is_set():
                self._fail(threading.current_thread().name, error)
        except OSError as error:
            self._fail(
                threading.current_thread().name,
                ObserveError(f"cannot write samples: {error}", evidence=(self._raw_path,)),
            )
        except Exception as error:
            LOG.exception("the thread %s failed", threading.current_thread().name)
            self._defect = self._defect or error

    def _fail(self, name: str, error: HarnessError) -> None:
        with self._lock:
            first = self._failures.setdefault(name, error) is error
        if first:
            LOG.warning("%s failed: %s", name, error)
