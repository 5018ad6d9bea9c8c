# SPDX-License-Identifier: Apache-2.0
"""What a run that broke learns of its guest afterwards."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from judging import check
from run_builders import ready, started

from harness.act.run_record import RunRecord
from harness.errors import (
    DeadlineError,
    GuestError,
    GuestStuckError,
    QmpSilentError,
    ToolCrashedError,
)
from harness.machine.starved import Share
from harness.machine.vm import VirtualMachine
from harness.record.events import Broke, ConsoleFinding, Event
from harness.record.facts import Cause, Verdict
from harness.run import autopsy
from harness.run.autopsy import examine
from harness.run.runner import verdict_of


def test_a_tool_that_crashed_fails_the_run_as_a_crash_of_the_guest(tmp_path: Path) -> None:
    """Its code and data are memory of the guest: that they were lost is no infrastructure's."""
    events: list[Event] = [*started(), ready()]
    record = RunRecord(events.append)
    vm = SimpleNamespace(console=SimpleNamespace(final_findings=list), alive=True)
    error = ToolCrashedError("the guest tool crashed: killed by signal 11")
    assert examine(cast(VirtualMachine, vm), record, tmp_path, error) is error
    broke = Broke(9.0, "ToolCrashedError", verdict_of(error), error.message, "")
    verdict, cause, reason = check([*events, broke], {})
    assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_CRASH)
    assert "killed by signal 11" in reason


@pytest.mark.parametrize(
    ("state", "words"),
    [("T", "QEMU is stopped (state T)"), ("S", "QEMU runs but does not answer its monitor")],
)
def test_a_qemu_that_does_not_answer_is_named_and_not_its_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, words: str
) -> None:
    monkeypatch.setattr(autopsy, "_process_state", lambda _pid: state)
    silent = DeadlineError("waited 20.0 s for `fpr-guest counters --once` in the guest")

    def nothing(*_arguments: object, **_options: object) -> None:
        raise QmpSilentError("query-status: no answer within 5 s")

    console = SimpleNamespace(final_findings=list, overflow=lambda: None)
    monitor = SimpleNamespace(execute=nothing)
    vm = SimpleNamespace(console=console, monitor=monitor, alive=True, pid=1)
    error = examine(cast(VirtualMachine, vm), RunRecord(lambda _e: None), tmp_path, silent)
    assert words in error.message
    assert silent.message in error.message
    assert verdict_of(error) is Verdict.MISS


def test_the_state_of_a_process_is_found_behind_its_name() -> None:
    assert autopsy._process_state(os.getpid()) == "R"
    assert autopsy._process_state(0) == ""


def test_a_guest_that_floods_its_console_is_not_asked_why(tmp_path: Path) -> None:
    """Each answer would be refused for the flood, as if SSH had failed: a MISS for an ERROR."""
    flood = GuestError("the guest wrote more than 64MiB on its console")
    console = SimpleNamespace(final_findings=list, overflow=lambda: flood)
    monitor = SimpleNamespace(
        execute=lambda *_a, **_k: {"status": "running"}, human=lambda *_a, **_k: ""
    )

    def refuse(*_arguments: object, **_options: object) -> None:
        raise flood

    shell = SimpleNamespace(run=refuse)
    vm = SimpleNamespace(console=console, monitor=monitor, shell=shell, alive=True, pace=1.0)
    events: list[Event] = []
    assert examine(cast(VirtualMachine, vm), RunRecord(events.append), tmp_path, flood) is flood
    assert events == []
    assert verdict_of(flood) is Verdict.ERROR
    assert not (tmp_path / "autopsy.txt").exists()


@pytest.mark.parametrize(
    ("last", "hangs"),
    [("[   29.401479] reboot: System halted", False), ("[   29.401479] random: ready", True)],
    ids=["it said that it halts", "it fell silent"],
)
def test_a_guest_that_halted_on_request_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, hangs: bool
) -> None:
    """Like one that powered itself off: the scenario asked for it, or nobody knows."""
    monkeypatch.setattr(autopsy, "_kernel_seen_working", lambda _vm: False)
    monkeypatch.setattr(autopsy, "SHARE_SECONDS", 0.0)
    silent = DeadlineError("waited 60.0 s for `halt -f` in the guest to end")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise silent

    console = SimpleNamespace(final_findings=list, overflow=lambda: None, tail=lambda: last)
    monitor = SimpleNamespace(
        execute=lambda *_a, **_k: {"status": "running"}, human=lambda *_a, **_k: ""
    )
    shell = SimpleNamespace(run=refuse)
    vm = SimpleNamespace(console=console, monitor=monitor, shell=shell, alive=True, pace=1.0, pid=1)
    events: list[Event] = []
    found = examine(cast(VirtualMachine, vm), RunRecord(events.append), tmp_path, silent)
    assert verdict_of(found) is Verdict.MISS
    assert [type(event) for event in events] == ([ConsoleFinding] if hangs else [])
    assert ("halted itself" in found.message) is not hangs


@pytest.mark.parametrize(
    ("ran", "waited", "hangs"),
    [(0.2, 1.8, False), (0.7, 1.3, True), (2.0, 0.0, True), (0.0, 0.0, True)],
    ids=["a quota of a tenth", "a busy host", "a guest that runs in circles", "an idle guest"],
)
def test_a_guest_without_processor_time_is_not_said_to_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: float, waited: float, hangs: bool
) -> None:
    """A quota set for QEMU's control group during a step made it a FAIL."""
    monkeypatch.setattr(autopsy, "SHARE_SECONDS", 0.2)
    monkeypatch.setattr(autopsy, "share", lambda _now, _before: Share(ran / 10, waited / 10))
    late = GuestStuckError("waited 60.0 s for the balloon to leave the guest 154MiB")
    console = SimpleNamespace(final_findings=list, overflow=lambda: None, tail=str)
    monitor = SimpleNamespace(
        execute=lambda *_a, **_k: {"status": "running"}, human=lambda *_a, **_k: ""
    )
    shell = SimpleNamespace(run=lambda *_a, **_k: SimpleNamespace(stdout=b""))
    vm = SimpleNamespace(console=console, monitor=monitor, shell=shell, alive=True, pace=1.0, pid=1)
    events: list[Event] = []
    found = examine(cast(VirtualMachine, vm), RunRecord(events.append), tmp_path, late)
    assert [type(event) for event in events] == ([ConsoleFinding] if hangs else [])
    assert late.message in found.message
    assert ("too little processor time" in found.message) is not hangs
    assert verdict_of(found) is Verdict.MISS
