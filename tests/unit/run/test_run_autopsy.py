# SPDX-License-Identifier: Apache-2.0
"""What a run that broke learns of its guest afterwards."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from judging import check
from run_builders import ready, started

from harness.act.run_record import RunRecord
from harness.errors import ToolCrashedError
from harness.machine.vm import VirtualMachine
from harness.record.events import Broke, Event
from harness.record.facts import Cause, Verdict
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
