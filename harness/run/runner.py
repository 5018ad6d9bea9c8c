# SPDX-License-Identifier: Apache-2.0
"""One run: boot, steps, verdict. Every run ends with a `Judged` event, whatever happens."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.act.perform import perform
from harness.act.run_record import RunRecord
from harness.act.session import GuestSession
from harness.bug_report import internal_error
from harness.errors import (
    GuestCrashError,
    GuestError,
    HarnessError,
    InternalError,
    InterruptedRunError,
    LaunchError,
    PreconditionError,
    RecordError,
    ScenarioError,
)
from harness.image.build import BootFiles, with_packages
from harness.image.kernel import least_memory
from harness.machine.launch import launch
from harness.machine.needs import missing_in_qemu, missing_needs
from harness.machine.qemu import Qemu
from harness.machine.vm import VirtualMachine
from harness.observe.boot_residency import BootLooks
from harness.observe.host_noise import HostNoiseReader
from harness.record.events import (
    AttemptBroke,
    AttemptCrashed,
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
from harness.run.console_end import read_console_to_end
from harness.run.decoding import decode_stacks
from harness.run.guest_setup import LARGER, check_size, guest_spec, load_modules
from harness.run.keep import keep
from harness.run.plan import PlannedRun, RunOptions
from harness.run.repro import write_repro
from harness.run.retrying import broken_attempt
from harness.run.second_witness import second_witness
from harness.run.started import run_started
from harness.run.which_clock import clock_for
from harness.run_log import RunLog, logging_to
from harness.stopping import check_stop, stoppable
from harness.units import format_size
from harness.verdict.judge import judge

LOG = logging.getLogger(__name__)

TOLD = (RunStarted, AttemptBroke, AttemptCrashed, PhaseStarted, ConsoleFinding, Broke, Judged)
"""Events that `-v` shows."""

NO_MEMORY = "System is deadlocked on memory"
"""The kernel's panic when not even init finds memory (mm/oom_kill.c, 5.10 to 7.3)."""

GOOD = frozenset({Verdict.PASS, Verdict.DONE, Verdict.SKIP})


@dataclass(frozen=True)
class Bench:
    """What the runs of one invocation share."""

    options: RunOptions
    results: Path
    qemus: Mapping[str, Qemu | HarnessError]
    """By name; an error in place of a QEMU that cannot be used."""
    emit: Callable[[str, Event], None]
    """Records an event of the named run; raises `RecordError`."""
    cancelled: threading.Event
    """Set when the user or the system asks the runs to stop."""


def run_scenario(run: PlannedRun, boot: BootFiles | HarnessError, bench: Bench) -> Judged:
    """Run one scenario to its verdict; `boot` may be the error that prevented making the image.

    A guest that crashes before the first step is booted again if a known defect of QEMU may
    explain the crash; a second crash is blamed on the guest (see `harness.verdict.judge`). What the
    infrastructure broke is tried again as often as the options say. Raises `RecordError` if an
    event cannot be written; passes on `KeyboardInterrupt` after the verdict has been recorded.
    """
    earlier: list[AttemptCrashed | AttemptBroke] = []
    while True:
        attempt = _Attempt(run, bench, earlier)
        judged = attempt.run(boot)
        again = None if isinstance(boot, HarnessError) else attempt.why_again(judged)
        if again is None or bench.cancelled.is_set():
            return judged
        earlier.append(again)


def give_up(run: PlannedRun, bench: Bench, error: Exception) -> Judged:
    """Record an ERROR for a run that could not start because of a bug in the harness.

    Raises `RecordError`.
    """
    record = RunRecord(lambda event: bench.emit(run.run_id, event))
    broken = internal_error(error, "starting the run", bench.results / run.run_id)
    name, verdict = type(broken).__name__, verdict_of(broken)
    qemu, options = bench.qemus[run.qemu.name], bench.options
    clock = clock_for(run.scenario, options, qemu)
    record.add(run_started(run, options, broken, qemu, attempt=1, clock=clock, t=record.now()))
    record.add(Broke(record.now(), name, verdict, broken.message, broken.hint))
    judged = Judged(record.now(), verdict, None, f"{broken.message} ({broken.hint})")
    record.add(judged)
    return judged


class _Attempt:
    """One attempt at a run, with its own record and directory."""

    def __init__(
        self, run: PlannedRun, bench: Bench, earlier: Sequence[AttemptCrashed | AttemptBroke]
    ) -> None:
        """`earlier`: how the previous attempts ended."""
        self._planned = run
        self._bench = bench
        self._earlier = tuple(earlier)
        self._number = len(earlier) + 1
        self._qemu = bench.qemus[run.qemu.name]
        self._clock = clock_for(run.scenario, bench.options, self._qemu)
        self._directory = RunDirectory(bench.results / run.run_id, self._number)
        self._record = RunRecord(self._emit)
        self._log = RunLog(run.run_id, self._record.now)
        self._boot_files: BootFiles | HarnessError | None = None
        self._looks = BootLooks()
        self.crash: AttemptCrashed | None = None
        """The guest's crash before the first step, if it crashed there."""

    def run(self, boot: BootFiles | HarnessError) -> Judged:
        """Run this attempt to its verdict; see `run_scenario`."""
        with logging_to(self._log), stoppable(self._bench.cancelled):
            self._begin(boot)
            self._boot_files = boot
            try:
                return self._run(boot)
            except (KeyboardInterrupt, HarnessError) as error:
                interrupted = InterruptedRunError("interrupted by the user")
                self._broke(error if isinstance(error, HarnessError) else interrupted)
                judged = self._judge()
                if isinstance(error, KeyboardInterrupt):
                    raise
                return judged
            except Exception as error:  # noqa: BLE001 - the other runs go on
                self._broke(self._defect(error, "running the scenario"))
                return self._judge()

    def why_again(self, judged: Judged) -> AttemptCrashed | AttemptBroke | None:
        """How this attempt ended, if that is a reason for another."""
        if judged.verdict is Verdict.FAIL:
            return None
        if self.crash is not None:
            return replace(self.crash, own=False)
        retries = self._bench.options.retry
        return broken_attempt(self._record.events, judged, self._number, retries)

    def _defect(self, error: BaseException, doing: str) -> InternalError | LaunchError:
        """Make the error for an unexpected exception, with a report in the run's directory."""
        planned, options = self._planned, self._bench.options
        facts = {
            "run": planned.run_id,
            "attempt": str(self._number),
            "image": planned.image.name,
            "options": str(options),
        }
        found = internal_error(error, doing, self._directory.path, facts=facts)
        self._log.open(self._directory.path)
        return found

    def _emit(self, event: Event) -> None:
        # Samples would flood the log; results.jsonl holds them.
        if not isinstance(event, Sample):
            LOG.log(logging.INFO if isinstance(event, TOLD) else logging.DEBUG, "%s", event)
        self._bench.emit(self._planned.run_id, event)

    def _begin(self, boot: BootFiles | HarnessError) -> None:
        plan, options, t = self._planned, self._bench.options, self._record.now()
        number, clock = self._number, self._clock
        started = run_started(plan, options, boot, self._qemu, attempt=number, clock=clock, t=t)
        self._record.add(started)
        for each in self._earlier:
            self._record.add(each)

    def _run(self, boot: BootFiles | HarnessError) -> Judged:
        if isinstance(boot, InternalError):
            raise self._defect(boot.__cause__ or boot, "preparing the guest image")
        if isinstance(boot, HarnessError):
            raise boot
        if isinstance(self._qemu, HarnessError):
            raise self._qemu
        check_stop("the run waited for its turn")
        with self._boot(boot, self._qemu) as vm:
            self._work(vm)
            judged = self._judge()
            if judged.verdict not in GOOD:
                seconds = self._bench.options.keep_failed
                keep(vm, self._record, self._directory.path, seconds, self._bench.cancelled)
            return judged

    def _boot(self, boot: BootFiles, qemu: Qemu) -> VirtualMachine:
        record, options = self._record, self._bench.options
        spec = guest_spec(self._planned.scenario, self._clock, record=options.record)
        if lacking := missing_needs(self._planned.scenario.tags, spec):
            raise PreconditionError(lacking)
        if lacking := missing_in_qemu(spec, qemu):
            raise PreconditionError(lacking, hint="choose another QEMU with --qemu")
        memory = self._planned.scenario.host_memory
        available = HostNoiseReader().read().mem_available
        if memory > available:
            raise LaunchError(
                f"the guest's memory ({format_size(memory)}) is more than the host has available "
                f"({format_size(available)})",
                hint="give the guest less with --set guest.memory=SIZE, or free memory on the host",
            )
        check_size(spec, least_memory(boot.kernel, boot.initramfs))
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
                while_booting=self._looks.watching,
            )
        except GuestCrashError as error:
            if NO_MEMORY in error.title:
                raise ScenarioError(
                    f"a guest of {format_size(spec.memory)} is too small to boot: {error.title}",
                    hint=LARGER,
                    evidence=error.evidence,
                ) from error
            self._crashed(error.title, error.text, error.defect, error.accel)
            raise

    def _crashed(self, title: str, text: str, defect: str, accel: str) -> None:
        """Record a crash of the guest's kernel before the first step."""
        t = self._record.now()
        self.crash = AttemptCrashed(t, self._number, accel, title, text, defect)
        self._record.add(self.crash)

    def _work(self, vm: VirtualMachine) -> None:
        """Open the instruments and do the steps; an error is recorded after an examination."""
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
                booting=self._looks.taken(),
            ) as session:
                stays = not self._planned.scenario.leaves_its_connection
                load_modules(vm, self._planned.scenario.guest.modules)
                with second_witness(vm.shell, stays=stays) as witness:
                    perform(session, self._planned.scenario.steps)
                    session.read_noise()
                    witness.testify(session.vm.shell, record)
                    for name, each in session.all_guests():
                        read_console_to_end(each, record, name)
            record.add(StepsDone(record.now(), len(record.events)))
        except RecordError:
            raise
        except HarnessError as error:
            # The guest may have moved to another QEMU.
            last = session.vm if session is not None else vm
            error = examine(last, record, directory.path, error)
            found = [e for e in record.events if isinstance(e, ConsoleFinding)]
            crash = next((e for e in found if e.severity == "crash"), None)
            if crash is not None and not fold(record.events).in_steps:
                self._crashed(crash.title, crash.text, vm.defects, vm.accel)
            self._broke(error)
        except Exception as error:  # noqa: BLE001 - see `run`
            self._broke(self._defect(error, "carrying out the scenario's steps"))

    def _broke(self, error: HarnessError) -> None:
        if self._bench.cancelled.is_set() and not isinstance(error, InterruptedRunError):
            error = InterruptedRunError(f"stopped on request; at that moment: {error.message}")
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
        if isinstance(self._boot_files, BootFiles):
            decode_stacks(self._record, self._boot_files, self._bench.options.kernel)
        try:
            history = fold(self._record.events)
            judged = judge(history, self._planned.scenario.asked, t=self._record.now())
        except Exception as error:  # noqa: BLE001 - see `run`
            broken = self._defect(error, "judging the run")
            reason = f"{broken.message} ({broken.hint})"
            judged = Judged(self._record.now(), verdict_of(broken), None, reason)
        self._record.add(judged)
        return judged


def verdict_of(error: HarnessError) -> Verdict:
    """Return the verdict that an error alone gives a run.

    SKIP for a missing precondition, ERROR for the scenario or the harness, else MISS.
    """
    if isinstance(error, PreconditionError):
        return Verdict.SKIP
    if isinstance(error, ScenarioError | GuestError | InternalError):
        return Verdict.ERROR
    return Verdict.MISS
