# SPDX-License-Identifier: Apache-2.0
"""When a further guest does not come up: is it for want of room, or for something else?"""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.act.crowd import crowd
from harness.errors import BootError, HarnessError, LaunchError, QemuGoneError
from harness.record.events import CrowdFull, Event
from harness.scenario.steps import CrowdStep

STEP = CrowdStep.model_validate({"limit": "1GiB", "touch": "80%", "most": 4, "boot_first": True})


def session(error: HarnessError, events: list[Event]) -> Any:
    """One guest that is ready, and no second."""

    def another(_number: int) -> None:
        raise error

    return SimpleNamespace(
        vm=SimpleNamespace(another=another),
        mapping=None,
        discards=None,
        reporting_order=9,
        record=SimpleNamespace(now=lambda: 1.0, add=events.append),
        phase=lambda _name, _detail: None,
    )


def test_a_qemu_that_ends_while_it_starts_ends_the_crowd() -> None:
    events: list[Event] = []
    error = LaunchError("QEMU exited (1): cannot set up guest memory\nmore")
    error.__cause__ = QemuGoneError("QEMU exited (1)")
    crowd(session(error, events), STEP)
    words = "guest 2 did not start: QEMU exited (1): cannot set up guest memory"
    assert events == [CrowdFull(1.0, words)]


@pytest.mark.parametrize(
    "error",
    [BootError("the guest did not become ready"), LaunchError("cannot write the VM's files")],
    ids=str,
)
def test_a_guest_that_something_else_keeps_away_is_no_sign_of_a_full_host(
    error: HarnessError,
) -> None:
    events: list[Event] = []
    with pytest.raises(type(error)):
        crowd(session(error, events), STEP)
    assert not events
