# SPDX-License-Identifier: Apache-2.0
"""`order`: the reporting order, read and asked for."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.order import PARAMETER, Order
from harness.errors import ObserveError, PreconditionError
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


def test_a_guest_that_tells_no_order_is_not_taken_for_one(guest: FakeGuest) -> None:
    tells(guest, "")
    with pytest.raises(ObserveError, match="cannot read the reporting order"):
        Order().perform(guest)
    assert guest.reporting_order == 9
