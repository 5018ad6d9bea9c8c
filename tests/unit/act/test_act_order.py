# SPDX-License-Identifier: Apache-2.0
"""`order`: the reporting order, read and asked for."""

import pytest
from fake_guest import FakeGuest
from pydantic import ValidationError

from harness.act.verbs.order import DELAY_PARAMETER, PARAMETER, Order
from harness.errors import GuestError, ObserveError, PreconditionError
from harness.record.events import OrderRead


def tells(guest: FakeGuest, order: int | str) -> None:
    guest.vm.says["page_reporting_order 2>/dev/null"] = (
        f"features=111111\ndriver=virtio_balloon\norder={order}\n"
    )
    guest.vm.qmp["qom-get"] = True


def test_it_is_read_and_later_steps_go_by_it(guest: FakeGuest) -> None:
    tells(guest, 4)
    Order().perform(guest)
    (event,) = guest.recorded(OrderRead)
    assert (event.asked, event.refused, event.read) == (None, False, 4)
    assert guest.reporting_order == 4


def test_another_is_asked_for_and_read_back(guest: FakeGuest) -> None:
    tells(guest, 3)
    Order.model_validate({"set": 3}).perform(guest)
    assert guest.vm.commands[:2] == [f"[ -w {PARAMETER} ]", f"echo 3 > {PARAMETER}"]
    assert guest.recorded(OrderRead)[0].refused is False


def test_a_kernel_may_refuse(guest: FakeGuest) -> None:
    tells(guest, 9)
    guest.vm.says["echo 32 >"] = 1
    Order.model_validate({"set": 32}).perform(guest)
    (event,) = guest.recorded(OrderRead)
    assert (event.asked, event.refused, event.read) == (32, True, 9)


def test_a_kernel_without_the_parameter_is_a_skip(guest: FakeGuest) -> None:
    tells(guest, 9)
    guest.vm.says["[ -w"] = 1
    with pytest.raises(PreconditionError, match=r"\(6.1.0-test\) has no writable .* 5.14"):
        Order.model_validate({"set": 3}).perform(guest)


def test_the_delay_between_passes_is_set_and_waits_go_by_it(guest: FakeGuest) -> None:
    tells(guest, "2\ndelay=100")
    Order.model_validate({"delay": "100ms"}).perform(guest)
    assert f"echo 100 > {DELAY_PARAMETER}" in guest.vm.commands
    assert guest.pass_seconds == 0.1
    assert guest.recorded(OrderRead)[0].pass_seconds == 0.1


def test_a_kernel_without_a_delay_to_set_is_a_skip(guest: FakeGuest) -> None:
    tells(guest, 9)
    guest.vm.says[f"[ -w {DELAY_PARAMETER}"] = 1
    with pytest.raises(PreconditionError, match=r"\(6.1.0-test\) has no writable .* 7.3"):
        Order.model_validate({"delay": "100ms"}).perform(guest)


def test_a_delay_that_is_refused_breaks_the_scenario(guest: FakeGuest) -> None:
    tells(guest, 9)
    guest.vm.says["echo 100 >"] = 1
    with pytest.raises(GuestError, match="refused a reporting delay of 100 ms"):
        Order.model_validate({"delay": "100ms"}).perform(guest)


def test_a_delay_that_no_wait_would_outlast_is_a_mistake() -> None:
    with pytest.raises(ValidationError):
        Order.model_validate({"delay": "61s"})


def test_a_guest_that_tells_no_order_is_not_taken_for_one(guest: FakeGuest) -> None:
    tells(guest, "")
    with pytest.raises(ObserveError, match="cannot read the reporting order"):
        Order().perform(guest)
    assert guest.reporting_order == 9
