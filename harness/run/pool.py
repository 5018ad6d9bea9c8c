# SPDX-License-Identifier: Apache-2.0
"""Several guests at once, as many as memory and cores allow, and an end for all of them."""

import contextlib
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Self

from harness.errors import HarnessError, RecordError
from harness.image.build import BootFiles
from harness.machine.cgroup import group_room, memory_file
from harness.machine.needs import HUGE_PAGE, free_huge_pages
from harness.machine.process import kill_all, stop_all
from harness.observe.host_noise import HostNoiseReader
from harness.record.events import Judged
from harness.run.plan import PlannedRun
from harness.run.runner import Bench, give_up, run_scenario
from harness.scenario.model import Scenario
from harness.units import GIB, MIB

QEMU_OVERHEAD = 512 * MIB
"""What a QEMU process needs beside guest RAM: under TCG mostly its translation buffer."""

MEMORY_SHARE = 0.8
"""The part of the host's available memory that guests may fill: a host that swaps is noise."""

VCPUS_PER_CORE = 2
"""Guests spend most of a run waiting for 2 s reporting passes, so cores are shared."""


@dataclass(frozen=True)
class Room:
    """What guests share: bytes of memory, virtual processors, bytes of the pool of huge pages."""

    memory: int
    vcpus: int
    huge_pages: int

    @classmethod
    def for_scenario(cls, scenario: Scenario) -> Self:
        """What its guests take at a time."""
        return cls(
            memory=scenario.host_memory + QEMU_OVERHEAD,
            vcpus=scenario.guest.vcpus,
            huge_pages=scenario.host_memory if scenario.host.backend == "hugetlb" else 0,
        )

    @classmethod
    def of_host(cls) -> Self:
        """What this host has to spare now, and the control group that this process runs in."""
        available = HostNoiseReader().read().mem_available
        charge = memory_file(os.getpid())
        limit = group_room(charge) if charge is not None else None
        return cls(
            memory=int((available if limit is None else min(available, limit)) * MEMORY_SHARE),
            vcpus=len(os.sched_getaffinity(0)) * VCPUS_PER_CORE,
            huge_pages=free_huge_pages() * HUGE_PAGE,
        )


class Admission:
    """Lets runs in while their guests fit the host; one always fits, however large."""

    def __init__(self, room: Room) -> None:
        self._all = room
        self._left = room
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def admit(self, scenario: Scenario) -> Iterator[None]:
        """Wait until the scenario's guests fit, and count them in until the end of the block."""
        # More than there is waits for all there is: it runs alone, and says itself what it lacks.
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
    """How many guests to run at once where nothing else says: one for each core."""
    return jobs or len(os.sched_getaffinity(0))


def workers_at_once() -> int:
    """How many pytest-xdist workers to start: each runs one guest and knows nothing of the others,
    so it is their number that keeps their guests in memory."""
    return max(1, min(guests_at_once(None), Room.of_host().memory // (GIB + QEMU_OVERHEAD)))


class RunPool:
    """Runs scenarios in threads of this process; leaving the block ends every guest."""

    def __init__(
        self, bench: Bench, boots: Mapping[str, BootFiles | HarnessError], jobs: int | None
    ) -> None:
        self._bench = bench
        self._boots = boots
        self._admission = Admission(Room.of_host())
        self._executor = ThreadPoolExecutor(guests_at_once(jobs), thread_name_prefix="run")

    def submit(self, run: PlannedRun) -> Future[Judged]:
        """Queue a run; its future gives the verdict, or raises `RecordError`."""
        return self._executor.submit(self._run, run)

    def _run(self, run: PlannedRun) -> Judged:
        try:
            with self._admission.admit(run.scenario):
                return run_scenario(run, self._boots[run.image.name], self._bench)
        except RecordError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on
            return give_up(run, self._bench, error)

    def stop(self) -> None:
        """Ask every run to end now; safe in a signal handler. A second call kills at once."""
        if self._bench.cancelled.is_set():
            kill_all()
            return
        self._bench.cancelled.set()
        stop_all()

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
        self._executor.shutdown(wait=True)
