# SPDX-License-Identifier: Apache-2.0
"""`qmp`: commands of the scenario's own, to QEMU."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.qmp_command import Qmp
from harness.errors import DeadlineError, QmpError


def test_the_command_goes_to_qemu_as_it_is(guest: FakeGuest) -> None:
    Qmp.model_validate({"command": "cont", "arguments": {"a": [1]}}).perform(guest)
    assert guest.vm.asked == [("cont", {"a": [1]})]


def test_an_event_is_waited_for(guest: FakeGuest) -> None:
    step = Qmp.model_validate({"command": "system_reset", "event": "RESET"})
    with pytest.raises(DeadlineError, match="QEMU's event RESET after system_reset"):
        step.perform(guest)
    guest.vm.happened.append({"event": "RESET"})
    step.perform(guest)


def test_what_qemu_refuses_breaks_the_scenario(guest: FakeGuest) -> None:
    guest.vm.qmp["frobnicate"] = QmpError("The command frobnicate has not been found")
    with pytest.raises(QmpError):
        Qmp.model_validate({"command": "frobnicate", "event": "RESET"}).perform(guest)
