# SPDX-License-Identifier: Apache-2.0
"""Run several guests at once, as many as memory and cores allow, and end all of them."""

import contextlib
import logging
import operator
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Self

from harness.errors import DeadlineError, HarnessError, RecordError
from harness.host_refusal import refusal
from harness.image.build import BootFiles
from harness.machine.cgroup import group_room, memory_file
from harness.machine.needs import HUGE_PAGE, free_huge_pages
from harness.machine.pace import slowness
from harness.machine.process import stop_all
from harness.observe.host_noise import HostNoiseReader
from harness.record.events import Judged
from harness.run.host_memory import HostMemory
from harness.run.host_turn import HostTurn
from harness.run.plan import PlannedRun, wants_the_host
from harness.run.runner import Bench, give_up, run_scenario
from harness.run.which_clock import clock_for
from harness.scenario.model import Guest, Scenario
from harness.units import GIB, MIB

LOG = logging.getLogger(__name__)

QEMU_OVERHEAD = 512 * MIB
"""Bytes that a QEMU process needs besides guest RAM; under TCG mostly the translation buffer."""

MEMORY_SHARE = 0.8
"""Fraction of the host's available memory that guests may fill; swapping would add noise."""

VCPUS_PER_CORE = 2
"""Guests mostly wait for reporting passes, which are 2 s apart, so they share cores.

They do not where the machine is so slow that their own work fills that time. Under KVM in an
emulated host, 8 times slower, the vCPUs of two guests on two cores waited longer for a core (59 s)
than they ran (46 s).
"""


@dataclass(frozen=True)
class Room:
    """Host resources: bytes of memory, vCPUs, and bytes of the hugetlb pool."""

    memory: int
    vcpus: int
    huge_pages: int

    @classmethod
    def for_scenario(cls, scenario: Scenario) -> Self:
        """The most that the scenario's guests take at any time."""
        return cls(
            memory=scenario.host_memory + QEMU_OVERHEAD,
            vcpus=scenario.guest.vcpus,
            huge_pages=scenario.host_memory if scenario.host.backend == "hugetlb" else 0,
        )

    @classmethod
    def of_host(cls) -> Self:
        """What this host, and the control group of this process, have available."""
        available = HostNoiseReader().read().mem_available
        charge = memory_file(os.getpid())
        limit = group_room(charge) if charge is not None else None
        return cls(
            memory=int((available if limit is None else min(available, limit)) * MEMORY_SHARE),
            vcpus=len(os.sched_getaffinity(0)) * _vcpus_per_core(),
            huge_pages=free_huge_pages() * HUGE_PAGE,
        )


def _vcpus_per_core() -> int:
    return VCPUS_PER_CORE if slowness() < VCPUS_PER_CORE else 1


class Admission:
    """Admits runs while their guests fit the host; a run alone is always admitted."""

    def __init__(self, room: Room) -> None:
        self._all = room
        self._left = room
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def admit(self, scenario: Scenario) -> Iterator[None]:
        """Wait until the scenario's guests fit, and reserve their room for the block."""
        # A scenario that is too large runs alone, and its own checks report what is missing.
        taken = _combined(min, Room.for_scenario(scenario), self._all)
        with self._changed:
            self._changed.wait_for(lambda: _combined(min, taken, self._left) == taken)
            self._left = _combined(operator.sub, self._left, taken)
        try:
            yield
        finally:
            with self._changed:
                self._left = _combined(operator.add, self._left, taken)
                self._changed.notify_all()


def _combined(operation: Callable[[int, int], int], one: Room, other: Room) -> Room:
    return Room(*map(operation, astuple(one), astuple(other)))


def guests_at_once(jobs: int | None) -> int:
    """How many guests to run at once: `jobs`, or one for each core."""
    return jobs or len(os.sched_getaffinity(0))


def workers_at_once() -> int:
    """How many pytest-xdist workers to start.

    Each worker runs one guest at a time and cannot see the others, so their number has to keep
    the guests within the host's memory and cores; 1 GiB and the usual vCPUs are assumed for each.
    """
    room = Room.of_host()
    fit = min(room.memory // (GIB + QEMU_OVERHEAD), room.vcpus // Guest().vcpus)
    return max(1, min(guests_at_once(None), fit))


class RunPool:
    """Runs scenarios in threads of this process; leaving the block ends every guest."""

    def __init__(
        self,
        bench: Bench,
        boots: Mapping[str, BootFiles | HarnessError],
        jobs: int | None,
        note: Callable[[str], None] = LOG.info,
        *,
        alone: bool = False,
    ) -> None:
        """`note`: takes what the user should know of runs that wait; `alone`: each run is a
        measurement, beside which no other guest runs on this host."""
        self._bench = bench
        self._boots = boots
        self._admission = Admission(Room.of_host())
        self._host = HostMemory(lambda: Room.of_host().memory, note=note)
        self._turn = HostTurn(note=note)
        self._alone = alone
        self._note = note
        self._most = guests_at_once(jobs)
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[tuple[PlannedRun, Future[Judged]] | None] = (
            queue.SimpleQueue()
        )

    def submit(self, run: PlannedRun) -> Future[Judged]:
        """Queue a run; its future returns the verdict, or raises `RecordError`.

        Raises `LaunchError` if the host does not let a single thread start.
        """
        if len(self._threads) < self._most:
            self._start_thread()
        future: Future[Judged] = Future()
        self._queue.put((run, future))
        return future

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"run_{len(self._threads)}")
        try:
            thread.start()
        except RuntimeError as error:
            refused = refusal(error, "starting a thread for the runs")
            if refused is None or not self._threads:
                raise refused or error from error
            self._note(f"guests at once: only {len(self._threads)}: {refused.message}")
            self._most = len(self._threads)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            run, future = work
            try:
                future.set_result(self._run(run))
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is to have it
                future.set_exception(error)

    def _run(self, run: PlannedRun) -> Judged:
        boot = self._boots[run.image.name]
        size = Room.for_scenario(run.scenario).memory
        clock = clock_for(run.scenario, self._bench.options, self._bench.qemus[run.qemu.name])
        alone = self._alone or wants_the_host(run.scenario, clock)
        try:
            with contextlib.ExitStack() as end:
                try:
                    # First, so that whoever waits for its turn keeps nothing from others.
                    end.enter_context(self._turn.take(alone=alone, cancelled=self._bench.cancelled))
                    end.enter_context(self._admission.admit(run.scenario))
                    end.enter_context(self._host.reserve(size, self._bench.cancelled))
                except DeadlineError as error:
                    boot = error
                return run_scenario(run, boot, self._bench)
        except RecordError:
            raise
        except Exception as error:  # noqa: BLE001 - the other runs go on
            return give_up(run, self._bench, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._bench.cancelled.set()
            stop_all()
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
