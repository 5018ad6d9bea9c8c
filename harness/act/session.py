# SPDX-License-Identifier: Apache-2.0
"""A ready guest with its instruments and record, on which verbs are carried out."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from harness.act.guest import K, Kept
from harness.act.kernel_said import record_unprinted
from harness.act.run_record import RunRecord
from harness.act.seen_pages import SeenPages
from harness.deadline import Deadline
from harness.errors import InterruptedRunError
from harness.guest.kernel_build import read_build
from harness.kernel.zones import HUGE_PAGE
from harness.machine.reset import Restart
from harness.machine.vm import VirtualMachine
from harness.observe.boot_residency import BootResidency
from harness.observe.features import BalloonState, read_balloon_state
from harness.observe.host_noise import HostNoiseReader
from harness.observe.instruments import Instruments
from harness.observe.reporting_capacity import read_capacity
from harness.observe.sampler import Sampler
from harness.record.events import (
    ConsoleFinding,
    GuestReady,
    NoiseRead,
    PhaseStarted,
    SamplingEnded,
)
from harness.units import PAGE_SIZE

SAMPLE_HZ = 5.0
"""Samples per second, enough to time the bursts of reporting passes, which are 2 s apart."""


@dataclass(frozen=True)
class Neighbour:
    """A further guest, which is watched but not sampled."""

    vm: VirtualMachine
    instruments: Instruments
    reporting_order: int
    pass_seconds: float


@dataclass
class GuestSession:
    """One guest under test; leaving its `with` block closes what verbs keep and stops sampling."""

    vm: VirtualMachine
    record: RunRecord
    directory: Path
    instruments: Instruments
    noise: HostNoiseReader
    reporting_order: int
    pass_seconds: float
    cancelled: threading.Event
    detached: bool
    phases: int = 0
    neighbours: dict[int, Neighbour] = field(default_factory=dict)
    """Further guests by their numbers, which begin at 2."""
    sampler: Sampler = field(init=False)
    _kept: dict[type[Kept], Kept] = field(default_factory=dict)
    _twin: VirtualMachine | None = None

    @classmethod
    def open(
        cls,
        vm: VirtualMachine,
        record: RunRecord,
        directory: Path,
        cancelled: threading.Event,
        *,
        detached: bool,
        booting: BootResidency | None = None,
    ) -> Self:
        """Record the guest's properties, open the instruments and start sampling.

        With `detached`, processes started in the guest must outlive the SSH connection. `booting`:
        what the host was seen to hold while the guest booted. Raises what the instruments raise.
        """
        balloon = _record_ready(vm, record)
        session = cls(
            vm=vm,
            record=record,
            directory=directory,
            instruments=Instruments.open(vm),
            noise=HostNoiseReader(),
            reporting_order=balloon.page_reporting_order,
            pass_seconds=balloon.pass_seconds,
            cancelled=cancelled,
            detached=detached,
        )
        session.read_noise()
        session.kept(SeenPages).begin(session.instruments, booting)
        session._start_sampler()
        return session

    def reboot(self, deadline: Deadline, how: Restart) -> None:
        """Restart the machine, and observe the guest that boots again.

        The log of the kernel that goes is read first. Raises what `VirtualMachine.restart`, the
        instruments and `record_unprinted` raise.
        """
        record_unprinted(self.vm, self.record)
        self._stop_sampler()
        try:
            self.vm.restart(deadline, how)
            balloon = _record_ready(self.vm, self.record)
            self.reporting_order = balloon.page_reporting_order
            self.pass_seconds = balloon.pass_seconds
            self.instruments = Instruments.open(self.vm)
        finally:
            self._start_sampler()

    def reopen_instruments(self) -> None:
        """Reopen the instruments on a changed memory layout. Raises what they raise."""
        self._stop_sampler()
        self.instruments = Instruments.open(self.vm)
        self._start_sampler()

    def twin(self, start: Literal["incoming", "stopped"]) -> VirtualMachine:
        """Start a second QEMU for this guest. Raises `LaunchError`."""
        self._twin = self.vm.twin(start)
        return self._twin

    def move_to_twin(self) -> None:
        """Continue with the guest in its twin. Raises what the instruments raise."""
        assert self._twin is not None, "a twin comes first"
        self.vm, self._twin = self._twin, None
        self.reopen_instruments()

    def another(self, number: int) -> Neighbour:
        """Boot a further guest like this one. Raises what `launch` and the instruments raise."""
        vm = self.vm.another(number)
        balloon = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
        neighbour = Neighbour(
            vm, Instruments.open(vm), balloon.page_reporting_order, balloon.pass_seconds
        )
        self.neighbours[number] = neighbour
        return neighbour

    def unasked(self) -> contextlib.AbstractContextManager[None]:
        """Ask nothing of a guest with a virtual clock meanwhile: to answer would take its time."""
        return self.sampler.unasked()

    def kept(self, kind: type[K]) -> K:
        """Return the single object of this class that is kept with the guest."""
        kept = self._kept.setdefault(kind, kind())
        assert isinstance(kept, kind)
        return kept

    def _start_sampler(self) -> None:
        samples = self.directory / "samples"
        samples.mkdir(exist_ok=True)
        self.sampler = Sampler(
            shell=self.vm.shell,
            mapping=self.instruments.mapping,
            discards=self.instruments.discards,
            threads=self.instruments.threads,
            hz=SAMPLE_HZ,
            sink=self.record.add,
            relative=self.record.relative,
            raw_path=samples / "guest-counters.bin",
            on_request=self.vm.spec.clock == "virtual",
        )
        self.sampler.start()

    def _stop_sampler(self) -> None:
        self.sampler.stop()
        failures = tuple(failure.message for failure in self.sampler.failures)
        blind = tuple(failure.message for failure in self.sampler.blind)
        self.record.add(SamplingEnded(self.record.now(), self.sampler.lost, failures, blind))

    def phase(self, name: str, detail: str = "") -> None:
        """Record that a phase begins, after reading the console.

        Raises `InterruptedRunError` if the run is to stop.
        """
        if self.cancelled.is_set():
            raise InterruptedRunError("the run was asked to stop")
        self.phases += 1
        self.read_console()
        self.record.add(PhaseStarted(self.record.now(), name, detail))

    def read_console(self) -> None:
        """Record the findings on the consoles of all guests since the last call."""
        for name, vm in self.all_guests():
            for finding in vm.console.new_findings():
                title = name + finding.title
                self.record.add(
                    ConsoleFinding(self.record.now(), finding.severity, title, finding.text)
                )

    def all_guests(self) -> Iterator[tuple[str, VirtualMachine]]:
        """Yield the scenario's guest and its neighbours, each with its prefix in finding titles."""
        yield "", self.vm
        for number, neighbour in self.neighbours.items():
            yield f"guest {number}: ", neighbour.vm

    def read_noise(self) -> None:
        """Record host-wide counters of what moves guest memory without reporting (KSM, swap)."""
        self.record.add(NoiseRead(self.record.now(), self.noise.read()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for kept in reversed(self._kept.values()):
            kept.close()
        self._stop_sampler()


def _record_ready(vm: VirtualMachine, record: RunRecord) -> BalloonState:
    """Record the properties of a guest that has booted, and return its balloon's state."""
    balloon = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
    capacity = read_capacity(vm.monitor, vm.balloon_path, vm.kernel_release)
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
            pass_seconds=balloon.pass_seconds,
            capacity=capacity.blocks,
            capacity_from=capacity.source,
            untraced=vm.untraced,
            unconfined=vm.unconfined,
            build=read_build(vm.shell),
            clock=vm.spec.clock,
            host_page=HUGE_PAGE if vm.spec.backend == "hugetlb" else PAGE_SIZE,
        )
    )
    return balloon
