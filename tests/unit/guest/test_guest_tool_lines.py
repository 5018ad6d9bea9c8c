# SPDX-License-Identifier: Apache-2.0
"""What is told of a guest tool that does not say in time what is waited for."""

import time

import pytest
from fake_process import FakeProcess

from harness.deadline import Deadline
from harness.errors import DeadlineError
from harness.guest.tool_lines import ToolLine, ToolOutput


class Slow(FakeProcess):
    """Says its lines, one in 0.05 s, and then nothing."""

    def read_line(self, timeout: float) -> str:
        time.sleep(min(timeout, 0.05))
        if timeout > 0.05 and self._said:
            return super().read_line(timeout)
        time.sleep(max(0.0, timeout - 0.05))
        raise Deadline(timeout, "a line").error()


def await_filled(process: FakeProcess, timeout: float) -> list[str]:
    noted: list[ToolLine] = []
    ToolOutput(process, "the churn tool").await_line("filled", timeout, noted.append)
    return [line.text for line in noted]


def test_the_whole_wait_is_told_and_not_what_was_left_of_it_for_the_last_line() -> None:
    """A churn that had 29 s was told as one that waited 0.2 s for a line."""
    with pytest.raises(DeadlineError, match=r"waited 0.2 s for the churn tool to say `filled`"):
        await_filled(Slow("progress bytes=1\nprogress bytes=2\n"), 0.2)


def test_a_slow_guest_gets_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "progress bytes=1\n" * 6 + "filled bytes=1\n"
    with pytest.raises(DeadlineError):
        await_filled(Slow(lines), 0.2)
    monkeypatch.setattr(Slow, "pace", 10.0)
    assert len(await_filled(Slow(lines), 0.2)) == 6
