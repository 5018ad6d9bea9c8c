# SPDX-License-Identifier: Apache-2.0
"""A ready guest with its instruments and its record: all a verb may use."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import InterruptedRunError, RecordError
from harness.guest.churn_client import ChurnSession
from harness.kernel.pages import StateArray
from harness.machine.interfaces import GuestProcess
from harness.machine.vm import VirtualMachine
from harness.observe.discards import DiscardLog
from harness.observe.features import read_balloon_state
from harness.observe.host_noise import HostNoiseReader
from harness.observe.mapping import HostMappingReader
from harness.observe.ram_layout import RamLayout
from harness.observe.residency import HostResidency
from harness.observe.sampler import Sampler
from harness.record.events import (
    ConsoleFinding,
    Event,
    GuestReady,
    LastWords,
    NoiseRead,
    PhaseStarted,
    SamplingEnded,
)

SAMPLE_HZ = 5.0
"""Samples a second: fine enough to time the bursts of a 2 s reporting pass."""


class Record:
    """The run's clock and the way its events take to the file."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._failure: RecordError | None = None

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def relative(self, at: float) -> float:
        """A host-monotonic time as seconds since the run began."""
        return at - self._start

    @property
    def saw_a_crash(self) -> bool:
        """Whether the guest's console has shown a crash."""
        return any(isinstance(e, ConsoleFinding) and e.severity == "crash" for e in self.events)

    def add(self, event: Event) -> None:
        """Keep an event and write it; callable from any thread.

        Raises `RecordError` from the first event that could not be written on, for whichever thread
        met it; a run's last words are tried all the same.
        """
        with self._lock:
            if self._failure is not None and not isinstance(event, LastWords):
                raise self._failure
            self.events.append(event)
            try:
                self.emit(event)
            except RecordError as error:
                self._failure = error
                raise


@dataclass
class GuestSession:
    """One guest under test. Verbs read its fields and change only those marked so."""

    vm: VirtualMachine
    record: Record
    directory: Path
    """Where the run's artefacts lie."""
    layout: RamLayout
    mapping: HostMappingReader
    residency: HostResidency
    discards: DiscardLog
    noise: HostNoiseReader
    reporting_order: int
    """Changed by order."""
    cancelled: threading.Event
    sampler: Sampler = field(init=False)
    detached: bool = False
    """Whether what is started in the guest must outlive the connection to it."""
    churn: ChurnSession | None = None
    """Changed by the churn verbs: what is held now."""
    busy: list[GuestProcess] = field(default_factory=list)
    """Changed by busy and calm: what takes and frees memory now."""
    seen: StateArray | None = None
    """Changed by audit: what the audits have seen of each page (`harness.kernel.pages.Seen`)."""
    moved: bool = False
    """Changed by migrate and snapshot: the guest came from another QEMU."""
    discards_mark: int = 0
    """Changed by audit: the moment before the latest audit, in the discard log."""
    drained_to: int | None = None
    """Changed by settle: bytes that remained when it drained, until the next step begins."""
    audits: int = field(default=0)
    """Changed by audit: how many were taken."""
    patterns: int = field(default=0)
    """Changed by churn: how many patterns were written, each with a seed of its own."""

    @classmethod
    def open(
        cls, vm: VirtualMachine, record: Record, directory: Path, cancelled: threading.Event
    ) -> Self:
        """Read who the guest is and start sampling. Raises what the instruments raise."""
        balloon = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
        record.add(
            GuestReady(
                t=record.now(),
                kernel=vm.kernel_release,
                accel=vm.accel,
                qemu=vm.qemu_version,
                boot_seconds=vm.boot_seconds,
                page_reporting_order=balloon.page_reporting_order,
                memory=vm.spec.memory,
                offered=balloon.offered,
                negotiated=balloon.negotiated,
                features=balloon.features,
                discard=vm.spec.discard,
                memory_limit=vm.spec.memory_limit,
            )
        )
        layout = RamLayout.read(vm.monitor)
        session = cls(
            vm=vm,
            record=record,
            directory=directory,
            layout=layout,
            mapping=HostMappingReader(vm.pid, layout),
            residency=HostResidency(vm.pid, layout),
            discards=DiscardLog(vm.discard_log, layout, errors=vm.qemu_log),
            noise=HostNoiseReader(),
            reporting_order=balloon.page_reporting_order,
            cancelled=cancelled,
        )
        session.read_noise()
        session._start_sampler()
        return session

    def observe(self, vm: VirtualMachine) -> None:
        """Look at another QEMU from now on, or at the same one whose memory has changed its layout.

        Raises what the instruments raise.
        """
        self._stop_sampler()
        self.vm = vm
        self.layout = RamLayout.read(vm.monitor)
        self.mapping = HostMappingReader(vm.pid, self.layout)
        self.residency = HostResidency(vm.pid, self.layout)
        self.discards = DiscardLog(vm.discard_log, self.layout, errors=vm.qemu_log)
        self.discards_mark = 0
        self._start_sampler()

    def _start_sampler(self) -> None:
        samples = self.directory / "samples"
        samples.mkdir(exist_ok=True)
        self.sampler = Sampler(
            shell=self.vm.shell,
            mapping=self.mapping,
            discards=self.discards,
            hz=SAMPLE_HZ,
            sink=self.record.add,
            relative=self.record.relative,
            raw_path=samples / "guest-counters.bin",
        )
        self.sampler.start()

    def _stop_sampler(self) -> None:
        self.sampler.stop()
        failures = tuple(failure.message for failure in self.sampler.failures)
        self.record.add(SamplingEnded(self.record.now(), self.sampler.lost, failures))

    def phase(self, name: str, detail: str = "") -> None:
        """Say what begins now; also the moment to look at the console and for a cancellation."""
        if self.cancelled.is_set():
            raise InterruptedRunError("the run was asked to stop")
        self.drained_to = None
        self.read_console()
        self.record.add(PhaseStarted(self.record.now(), name, detail))

    def read_console(self) -> None:
        """Record what the console watcher found since the last look."""
        for finding in self.vm.console.new_findings():
            self.record.add(
                ConsoleFinding(self.record.now(), finding.severity, finding.title, finding.text)
            )

    def read_noise(self) -> None:
        """Record the host-wide counters that could move guest memory without reporting."""
        self.record.add(NoiseRead(self.record.now(), self.noise.read()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.busy:
            process.close()
        if self.churn is not None:
            self.churn.close()
        self._stop_sampler()
