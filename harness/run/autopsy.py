# SPDX-License-Identifier: Apache-2.0
"""Find out whether the guest of a broken run has crashed, hangs, or is only unreachable.

Before a guest that does not answer over SSH is destroyed, evidence is collected without SSH:
QEMU's run state, the registers, and the balloon driver's statistics, whose `last-update` moves
only while the guest's kernel works.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any, Literal

from harness.act.run_record import RunRecord
from harness.deadline import Deadline, wait_for
from harness.errors import (
    DeadlineError,
    GuestError,
    GuestStuckError,
    HarnessError,
    InterruptedRunError,
    ObserveError,
    QmpError,
    QmpSilentError,
    SshError,
    ToolCrashedError,
)
from harness.machine.starved import HINT, share, thread_times
from harness.machine.vm import VirtualMachine
from harness.record.events import ConsoleFinding
from harness.run.console_end import record_findings, record_reset
from harness.run_log import escaped

LOG = logging.getLogger(__name__)

HALTED = "reboot: System halted"
"""What a kernel prints before it halts on request (kernel/reboot.c, kernel_halt())."""

ALIVE_SECONDS = 10.0
"""Seconds that a guest's kernel may take to answer the balloon's statistics poll of 1 s."""

SHARE_SECONDS = 2.0
"""Seconds over which the processor time of QEMU is taken."""

LEAST_SHARE = 0.2
"""Part of the time that it wants below which no guest can be judged. A load of three busy threads
for each core leaves a third; a quota of a tenth of a core was seen to leave 0.1."""

FOREIGN_STATES = frozenset({"internal-error", "io-error", "shutdown"})
"""Run states in which QEMU or the host stopped the guest; they say nothing about its kernel."""


def examine(
    vm: VirtualMachine, record: RunRecord, directory: Path, error: HarnessError
) -> HarnessError:
    """Record findings about the guest after `error`, and write `autopsy.txt` if QEMU still runs.

    Returns `error`, or a more precise one. Does not raise if the examination fails, but writes
    that into the file.
    """
    _read_console(vm, record)
    record_reset(record, error)
    if isinstance(error, ToolCrashedError):
        record.add(
            ConsoleFinding(record.now(), "crash", error.message, error.message, on_console=False)
        )
        return error
    unreachable = isinstance(error, SshError | DeadlineError | GuestError | ObserveError)
    if not unreachable or isinstance(error, InterruptedRunError) or not vm.alive:
        return error
    if vm.console.overflow() is not None:
        # Nothing more is asked of such a guest, which would look as if SSH had failed.
        return error
    evidence = [f"after: {error}"]
    try:
        error = _look(vm, record, error, evidence)
    except HarnessError as broken:
        # Keep the first error: it came before the examination and is closer to the cause.
        evidence.append(f"then the examination itself broke: {broken.message}")
        _record_reset_after(vm, record, broken)
        error = _without_qemu(vm, error, broken)
    _read_console(vm, record)
    with contextlib.suppress(OSError):
        text = escaped("\n\n".join(evidence)) + "\n"
        (directory / "autopsy.txt").write_text(text, encoding="utf-8")
    return error


def _read_console(vm: VirtualMachine, record: RunRecord) -> None:
    """Record what the console shows; a console that cannot be read does not replace the error."""
    try:
        record_findings(vm, record)
    except ObserveError as error:
        LOG.warning("the console cannot be read: %s", error)


def _record_reset_after(vm: VirtualMachine, record: RunRecord, broken: HarnessError) -> None:
    """Record a guest that ended during the examination: first its console, which may say why."""
    _read_console(vm, record)
    record_reset(record, broken)


def _process_state(pid: int) -> str:
    """Return a process's state, one letter (proc(5), /proc/PID/stat); empty if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def _without_qemu(vm: VirtualMachine, error: HarnessError, broken: HarnessError) -> HarnessError:
    """Say that QEMU itself does not answer, if that is why the examination broke.

    A guest needs QEMU's main thread for whatever it is asked over the network.
    """
    if not vm.alive or not isinstance(broken, QmpSilentError):
        return error
    state = _process_state(vm.pid)
    if state in ("T", "t"):
        return QmpError(
            f"QEMU is stopped (state {state}), and its guest with it: {error.message}",
            hint="something sent SIGSTOP, or traces it (a debugger); SIGCONT continues it",
            evidence=error.evidence,
        )
    return QmpError(
        f"QEMU runs but does not answer its monitor either: {error.message}",
        hint="its main thread waits for something, or the host gives it no processor time: see "
        "autopsy.txt and, while it lasts, /proc/PID/stack of its threads",
        evidence=error.evidence,
    )


def _look(
    vm: VirtualMachine, record: RunRecord, error: HarnessError, evidence: list[str]
) -> HarnessError:
    """Query QEMU, then the guest, and append to `evidence`. Raises `HarnessError`."""
    status = vm.monitor.execute("query-status", timeout=5.0)["status"]
    evidence.append(f"QEMU's run state: {status}")
    evidence.append(vm.monitor.human("info registers -a", timeout=5.0))
    if status in FOREIGN_STATES:
        return error
    return _in_the_guest(vm, record, error, evidence)


def _in_the_guest(
    vm: VirtualMachine, record: RunRecord, error: HarnessError, evidence: list[str]
) -> HarnessError:
    """Find out whether the guest hangs, entirely or in the step it was asked to do.

    Appends to `evidence`. Returns `error`, or one that says that only SSH fails.
    """
    if starved := _starved(vm, error):
        evidence.append(starved.message)
        return starved
    if _answers(vm):
        if isinstance(error, GuestStuckError):
            evidence.append(_blocked_tasks(vm))
            _hang(record, f"the guest runs but did not finish in time: {error.message}", evidence)
        return error
    seen = _kernel_seen_working(vm)
    evidence.append(f"the balloon driver answered within {ALIVE_SECONDS * vm.pace:.0f} s: {seen}")
    if seen is False and HALTED in vm.console.tail():
        return SshError(
            f"the guest halted itself, and QEMU stays: {error.message}",
            hint="see console.log for what asked for that",
            evidence=error.evidence,
        )
    if seen is False:
        _hang(record, f"the guest stopped answering: {error.message}", evidence)
    elif seen:
        return SshError(
            f"the guest's kernel works, but it cannot be reached over SSH: {error.message}",
            hint="check that loopback is usable and, in console.log, that dropbear still runs",
            evidence=error.evidence,
        )
    return error


def _starved(vm: VirtualMachine, error: HarnessError) -> HarnessError | None:
    """Say that QEMU gets next to no processor time; None as soon as it is seen to get its share.

    No guest is to blame for that: one that hangs either runs or does not want to.
    """
    before, deadline = thread_times(vm.pid), Deadline(SHARE_SECONDS, "QEMU to get its share")

    def fed() -> Literal[True] | None:
        now = share(thread_times(vm.pid), before)
        # Nothing that the rest of the time brings would change it.
        runs = now.ran > LEAST_SHARE * SHARE_SECONDS
        return True if runs or now.waited + deadline.remaining <= SHARE_SECONDS / 2 else None

    with contextlib.suppress(DeadlineError):
        wait_for(fed, deadline, interval=0.1)
        return None
    had = share(thread_times(vm.pid), before)
    if had.ran > LEAST_SHARE * (had.ran + had.waited):
        return None
    return DeadlineError(
        f"the host gives QEMU too little processor time: {error.message}; within "
        f"{SHARE_SECONDS:.0f} s after that {had.words}",
        hint=HINT,
        evidence=error.evidence,
    )


def _hang(record: RunRecord, title: str, evidence: list[str]) -> None:
    text = "\n".join(evidence)
    record.add(ConsoleFinding(record.now(), "hang", title, text, on_console=False))


def _blocked_tasks(vm: VirtualMachine) -> str:
    """Return the blocked tasks as the guest's kernel lists them (sysrq w)."""
    try:
        answer = vm.shell.run("echo w >/proc/sysrq-trigger; dmesg | tail -n 200", timeout=10.0)
    except HarnessError as broken:
        return f"the guest's blocked tasks could not be listed: {broken.message}"
    return answer.stdout.decode(errors="replace")


def _answers(vm: VirtualMachine) -> bool:
    """Whether the guest still runs commands."""
    try:
        vm.shell.run("true", timeout=5.0)
    except HarnessError:
        return False
    return True


def _kernel_seen_working(vm: VirtualMachine) -> bool | None:
    """Whether the balloon driver updates its statistics within `ALIVE_SECONDS`."""

    def last_update() -> int:
        stats: dict[str, Any] = vm.monitor.execute(
            "qom-get", {"path": vm.balloon_path, "property": "guest-stats"}, timeout=5.0
        )
        return int(stats["last-update"])

    vm.monitor.execute(
        "qom-set",
        {"path": vm.balloon_path, "property": "guest-stats-polling-interval", "value": 1},
        timeout=5.0,
    )
    before = last_update()
    try:
        wait_for(
            lambda: last_update() if last_update() != before else None,
            Deadline(ALIVE_SECONDS * vm.pace, "the balloon driver's statistics"),
            interval=0.2,
        )
    except DeadlineError:
        return False
    return True
