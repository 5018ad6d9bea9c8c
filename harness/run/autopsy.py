# SPDX-License-Identifier: Apache-2.0
"""What a guest still tells when a run has broken: crashed, hung, or merely out of reach.

A machine that no longer answers over SSH is asked for evidence before it is destroyed, by ways
that need no SSH: QEMU's run state, its registers, and the balloon driver's statistics, whose
`last-update` moves only while the guest's kernel works.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

from harness.act.run_record import RunRecord
from harness.deadline import Deadline, wait_for
from harness.errors import (
    DeadlineError,
    GuestError,
    GuestStuckError,
    HarnessError,
    InterruptedRunError,
    ObserveError,
    SshError,
    ToolCrashedError,
)
from harness.machine.vm import VirtualMachine
from harness.record.events import ConsoleFinding
from harness.run.console_end import record_findings, record_reset
from harness.run_log import escaped

LOG = logging.getLogger(__name__)

ALIVE_SECONDS = 10.0
"""How long a guest's kernel may take to answer the balloon's statistics poll of 1 s."""

FOREIGN_STATES = frozenset({"internal-error", "io-error", "shutdown"})
"""Run states in which QEMU or the host stopped the guest: no word about the guest's kernel."""


def examine(
    vm: VirtualMachine, record: RunRecord, directory: Path, error: HarnessError
) -> HarnessError:
    """Record findings about the guest after `error`, and leave `autopsy.txt` if it is still there.

    Returns what broke, as well as it is known now. Never raises for what it could not learn: that
    too goes into the file.
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
    evidence = [f"after: {error}"]
    try:
        error = _look(vm, record, error, evidence)
    except HarnessError as broken:
        # What was known before stands: that the guest ends under a look at it says more about it.
        evidence.append(f"then the examination itself broke: {broken.message}")
        _record_reset_after(vm, record, broken)
    _read_console(vm, record)
    with contextlib.suppress(OSError):
        text = escaped("\n\n".join(evidence)) + "\n"
        (directory / "autopsy.txt").write_text(text, encoding="utf-8")
    return error


def _read_console(vm: VirtualMachine, record: RunRecord) -> None:
    """Record what the console shows by now, if it can be read: the error that is known stays."""
    try:
        record_findings(vm, record)
    except ObserveError as error:
        LOG.warning("the console cannot be read: %s", error)


def _record_reset_after(vm: VirtualMachine, record: RunRecord, broken: HarnessError) -> None:
    """The guest went while it was examined: its console first, for it may say how."""
    _read_console(vm, record)
    record_reset(record, broken)


def _look(
    vm: VirtualMachine, record: RunRecord, error: HarnessError, evidence: list[str]
) -> HarnessError:
    """Ask QEMU, then the guest; adds to the evidence. Raises what asking raises."""
    status = vm.monitor.execute("query-status", timeout=5.0)["status"]
    evidence.append(f"QEMU's run state: {status}")
    evidence.append(vm.monitor.human("info registers -a", timeout=5.0))
    if status in FOREIGN_STATES:
        return error
    return _in_the_guest(vm, record, error, evidence)


def _in_the_guest(
    vm: VirtualMachine, record: RunRecord, error: HarnessError, evidence: list[str]
) -> HarnessError:
    """Whether it hangs, wholly or in what it was asked for; adds to the evidence."""
    if _answers(vm):
        if isinstance(error, GuestStuckError):
            evidence.append(_blocked_tasks(vm))
            _hang(record, f"the guest runs and did not get it done: {error.message}", evidence)
        return error
    seen = _kernel_seen_working(vm)
    evidence.append(f"the balloon driver answered within {ALIVE_SECONDS:.0f} s: {seen}")
    if seen is False:
        _hang(record, f"the guest stopped answering: {error.message}", evidence)
    elif seen:
        return SshError(
            f"the guest is out of reach over SSH though its kernel works: {error.message}",
            hint="is loopback usable, is the guest's SSH server alive? See console.log",
            evidence=error.evidence,
        )
    return error


def _hang(record: RunRecord, title: str, evidence: list[str]) -> None:
    text = "\n".join(evidence)
    record.add(ConsoleFinding(record.now(), "hang", title, text, on_console=False))


def _blocked_tasks(vm: VirtualMachine) -> str:
    """What waits in the guest's kernel, as it says itself (sysrq w)."""
    try:
        answer = vm.shell.run("echo w >/proc/sysrq-trigger; dmesg | tail -n 200", timeout=10.0)
    except HarnessError as broken:
        return f"its blocked tasks could not be listed: {broken.message}"
    return answer.stdout.decode(errors="replace")


def _answers(vm: VirtualMachine) -> bool:
    """Whether the guest still runs a command."""
    try:
        vm.shell.run("true", timeout=5.0)
    except HarnessError:
        return False
    return True


def _kernel_seen_working(vm: VirtualMachine) -> bool | None:
    """Whether the balloon driver updates its statistics; None where it never could."""

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
            Deadline(ALIVE_SECONDS, "the balloon driver's statistics"),
            interval=0.2,
        )
    except DeadlineError:
        return False
    return True
