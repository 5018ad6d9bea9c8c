# SPDX-License-Identifier: Apache-2.0
"""One run: boot, steps, verdict. Whatever happens in it ends in a `Judged` event."""

import datetime
import logging
import platform
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.act.perform import perform
from harness.act.run_record import RunRecord
from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import (
    GuestCrashError,
    GuestError,
    HarnessError,
    InterruptedRunError,
    LaunchError,
    PreconditionError,
    RecordError,
    ScenarioError,
)
from harness.image.build import BootFiles, with_packages
from harness.machine.launch import launch
from harness.machine.needs import missing_in_qemu, missing_needs
from harness.machine.qemu import Qemu
from harness.machine.spec import BalloonSpec, GuestSpec, NumaNode
from harness.machine.vm import VirtualMachine
from harness.observe.host_noise import HostNoiseReader
from harness.record.events import (
    Broke,
    ConsoleFinding,
    Event,
    Judged,
    PhaseStarted,
    RunStarted,
    Sample,
    StepsDone,
)
from harness.record.facts import Verdict
from harness.record.folding import fold
from harness.record.run_directory import RunDirectory
from harness.run.autopsy import examine
from harness.run.plan import PlannedRun, RunOptions, recorded_plan
from harness.run.repro import write_repro
from harness.run_log import RunLog, logging_to
from harness.scenario.model import Scenario
from harness.units import format_size
from harness.verdict.judge import judge

LOG = logging.getLogger(__name__)

TOLD = (RunStarted, PhaseStarted, ConsoleFinding, Broke, Judged)
"""Events that a person who follows a run wants to see (-v)."""

ATTEMPTS = 3
"""A guest that crashes before the first step under TCG is tried again, at most twice: QEMU 7.2's
TCG corrupts EFLAGS around cmpxchg16b now and then, which says nothing about reporting."""

GOOD = frozenset({Verdict.PASS, Verdict.DONE, Verdict.SKIP})


@dataclass(frozen=True)
class Bench:
    """What the runs of one invocation share."""

    options: RunOptions
    results: Path
    qemus: Mapping[str, Qemu | HarnessError]
    """By name; the error of one that cannot be used."""
    emit: Callable[[str, Event], None]
    """Writes an event of the named run; raises `RecordError`."""
    cancelled: threading.Event
    """Set when the user or the system asks the runs to stop."""


def guest_spec(scenario: Scenario) -> GuestSpec:
    """The machine a scenario asks for."""
    return GuestSpec(
        memory=scenario.guest.memory,
        vcpus=scenario.guest.vcpus,
        cmdline=scenario.guest.cmdline,
        numa=tuple(NumaNode(node.memory, tuple(node.vcpus)) for node in scenario.guest.numa),
        machine=scenario.guest.machine,
        hotplug=scenario.guest.hotplug,
        disk=scenario.guest.disk,
        balloon=BalloonSpec(**scenario.balloon.model_dump()),
        backend=scenario.host.backend,
        discard=scenario.host.discard,
        under_pressure=scenario.presses,
        memory_limit=scenario.host.memory_limit,
    )


def run_scenario(run: PlannedRun, boot: BootFiles | HarnessError, bench: Bench) -> Judged:
    """Run one scenario to its verdict; `boot` may be the error that left the run without an image.

    Raises `RecordError` if not even the beginning can be written. `KeyboardInterrupt` passes on
    when the verdict has been recorded.
    """
    for number in range(1, ATTEMPTS + 1):
        attempt = _Attempt(run, bench, number)
        judged = attempt.run(boot)
        if not attempt.died_before_first_step or bench.cancelled.is_set():
            break
    return judged


class _Attempt:
    """One try at a run, with its own record and directory."""

    def __init__(self, run: PlannedRun, bench: Bench, number: int) -> None:
        self._planned = run
        self._bench = bench
        self._number = number
        self._directory = RunDirectory(bench.results / run.run_id, number)
        self._record = RunRecord(self._emit)
        self._log = RunLog(run.run_id, self._record.now)
        self.died_before_first_step = False
        """The guest crashed under TCG before it was asked to do anything: worth a new VM."""

    def run(self, boot: BootFiles | HarnessError) -> Judged:
        """The verdict of this attempt; see `run_scenario`."""
        with logging_to(self._log):
            return self._run(boot)

    def _emit(self, event: Event) -> None:
        # Samples are many, and results.jsonl has them.
        if not isinstance(event, Sample):
            LOG.log(logging.INFO if isinstance(event, TOLD) else logging.DEBUG, "%s", event)
        self._bench.emit(self._planned.run_id, event)

    def _run(self, boot: BootFiles | HarnessError) -> Judged:
        record = self._record
        qemu = self._bench.qemus[self._planned.qemu.name]
        began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=record.now())
        record.add(
            RunStarted(
                t=record.now(),
                scenario=self._planned.scenario.name,
                image=self._planned.image.name,
                qemu=self._planned.qemu.name,
                qemu_version=qemu.version if isinstance(qemu, Qemu) else "",
                attempt=self._number,
                wall=began.isoformat(timespec="microseconds"),
                host={"kernel": platform.release(), "machine": platform.machine()},
                harness=__version__,
                plan=recorded_plan(self._planned, self._bench.options, boot),
            )
        )
        try:
            if isinstance(boot, HarnessError):
                raise boot
            if isinstance(qemu, HarnessError):
                raise qemu
            with self._boot(boot, qemu) as vm:
                self._work(vm)
                judged = self._judge()
                if judged.verdict not in GOOD:
                    self._keep(vm)
                return judged
        except KeyboardInterrupt:
            self._broke(InterruptedRunError("interrupted by the user"))
            self._judge()
            raise
        except HarnessError as error:
            self._broke(error)
            return self._judge()

    def _boot(self, boot: BootFiles, qemu: Qemu) -> VirtualMachine:
        record, options = self._record, self._bench.options
        spec = guest_spec(self._planned.scenario)
        if lacking := missing_needs(self._planned.scenario.tags, spec):
            raise PreconditionError(lacking)
        if lacking := missing_in_qemu(spec, qemu):
            raise PreconditionError(lacking, hint="take another with --qemu")
        memory = self._planned.scenario.host_memory
        available = HostNoiseReader().read().mem_available
        if memory > available:
            raise LaunchError(
                f"the guest's memory ({format_size(memory)}) is more than the host has available "
                f"({format_size(available)})",
                hint="give the guest less with --set guest.memory=SIZE, or free the host's memory",
            )
        self._directory.create()
        self._log.open(self._directory.path)
        record.add(PhaseStarted(record.now(), "boot", self._planned.image.name))
        try:
            boot = with_packages(
                boot,
                self._planned.image,
                self._planned.scenario.guest.packages,
                progress=lambda text: record.add(PhaseStarted(record.now(), "boot", text)),
            )
            return launch(
                spec,
                boot,
                accel=options.accel,
                qemu=qemu.path,
                artefacts=self._directory.path,
                progress=lambda text: record.add(PhaseStarted(record.now(), "boot", text)),
                cancelled=self._bench.cancelled,
            )
        except HarnessError as error:
            self.died_before_first_step = isinstance(error, GuestCrashError)
            raise

    def _work(self, vm: VirtualMachine) -> None:
        """Instruments, then the steps; an error is recorded with what the guest still tells."""
        record, directory = self._record, self._directory
        session: GuestSession | None = None
        try:
            write_repro(directory.path, vm, self._planned, self._bench.options)
            with GuestSession.open(
                vm,
                record,
                directory.path,
                self._bench.cancelled,
                detached=self._planned.scenario.leaves_its_connection,
            ) as session:
                perform(session, self._planned.scenario.steps)
                session.read_noise()
                session.read_console()
            record.add(StepsDone(record.now()))
        except RecordError:
            raise
        except HarnessError as error:
            # The guest may have moved to another QEMU.
            last = session.vm if session is not None else vm
            error = examine(last, record, directory.path, error)
            crashed = any(
                isinstance(e, ConsoleFinding) and e.severity == "crash" for e in record.events
            )
            self.died_before_first_step = session is None and crashed and vm.accel == "tcg"
            self._broke(error)

    def _broke(self, error: HarnessError) -> None:
        if self._bench.cancelled.is_set() and not isinstance(error, InterruptedRunError):
            error = InterruptedRunError(f"stopped on request; it was then: {error.message}")
        self._record.add(
            Broke(
                t=self._record.now(),
                error=type(error).__name__,
                verdict=verdict_of(error),
                message=error.message,
                hint=error.hint,
            )
        )

    def _judge(self) -> Judged:
        history = fold(self._record.events)
        judged = judge(history, self._planned.scenario.asked, t=self._record.now())
        self._record.add(judged)
        return judged

    def _keep(self, vm: VirtualMachine) -> None:
        """Leave the guest up for a look, as `--keep-failed` asks."""
        seconds = self._bench.options.keep_failed
        if not seconds or not vm.alive:
            return
        until = Deadline(seconds, "somebody to look at the guest")
        self._record.add(
            PhaseStarted(
                self._record.now(), "kept", f"for {seconds / 60:.0f} min: {shlex.join(vm.ssh_argv)}"
            )
        )
        while not until.passed and vm.alive and not self._bench.cancelled.wait(0.5):
            pass


def verdict_of(error: HarnessError) -> Verdict:
    """What an error alone makes of a run: who broke, the scenario or the infrastructure."""
    if isinstance(error, PreconditionError):
        return Verdict.SKIP
    if isinstance(error, ScenarioError | GuestError):
        return Verdict.ERROR
    return Verdict.MISS
