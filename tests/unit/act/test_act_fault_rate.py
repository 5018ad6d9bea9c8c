# SPDX-License-Identifier: Apache-2.0
"""`fault_rate`: page faults a second, in the state reporting is in."""

from dataclasses import replace

import pytest
from fake_guest import FakeGuest
from run_builders import ready

from harness.act.verbs.fault_rate import SLACK_SECONDS, MeasureFaults
from harness.errors import GuestError
from harness.record.events import DriverChanged, Event, FaultRate

SAID = "faults pages=5000 nanoseconds=2000000000\n"


@pytest.mark.parametrize("pages", ["base", "huge", "file"])
def test_the_guest_tool_counts_and_the_rate_is_recorded(guest: FakeGuest, pages: str) -> None:
    guest.vm.says["fpr-guest faults"] = SAID
    step = MeasureFaults.model_validate({"by": "thread", "pages": pages, "duration": "2s"})
    step.perform(guest)
    assert guest.vm.commands == [f"fpr-guest faults --by thread --pages {pages} --ms 2000"]
    assert guest.vm.timeouts == [2.0 + SLACK_SECONDS]
    (event,) = guest.recorded(FaultRate)
    assert (event.by, event.pages, event.per_second) == ("thread", pages, 2500.0)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([ready()], "on"),
        ([replace(ready(), negotiated=False)], "idle"),
        ([replace(ready(), negotiated=False, offered=False)], "off"),
        ([ready(), DriverChanged(2.0, bound=False)], "idle"),
        ([ready(), DriverChanged(2.0, bound=False, reporting=False)], "off"),
        ([ready(), DriverChanged(2.0, bound=False), DriverChanged(3.0, bound=True)], "on"),
        ([ready(), DriverChanged(2.0, bound=True, reporting=False)], "off"),
    ],
)
def test_the_state_of_reporting_goes_with_the_rate(
    guest: FakeGuest, events: list[Event], state: str
) -> None:
    for event in events:
        guest.record.add(event)
    guest.vm.says["fpr-guest faults"] = SAID
    MeasureFaults().perform(guest)
    assert guest.recorded(FaultRate)[0].state == state


@pytest.mark.parametrize("said", ["", "faults pages=5 nanoseconds=0", "Killed"])
def test_a_tool_that_counts_nothing_is_an_error_and_no_rate(guest: FakeGuest, said: str) -> None:
    guest.vm.says["fpr-guest faults"] = said
    with pytest.raises(GuestError, match="printed no measurement"):
        MeasureFaults().perform(guest)
    assert not guest.recorded(FaultRate)
