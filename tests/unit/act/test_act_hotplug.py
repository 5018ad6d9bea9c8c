# SPDX-License-Identifier: Apache-2.0
"""`plug` and `unplug`: memory and the balloon come and go while the guest runs."""

from typing import Any

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.hotplug import DEVICES, RETRY_SECONDS, VIRTIO_MEM, Plug, Unplug
from harness.errors import GuestStuckError, PreconditionError, QmpError
from harness.machine.command import BALLOON_ID
from harness.machine.spec import GuestSpec
from harness.record.events import DevicePlugged, DriverChanged
from harness.units import GIB, KIB, MIB

ONLINE = "/proc/meminfo"
"""In the command that puts memory online and tells MemTotal."""


def plug(**fields: Any) -> Plug:
    return Plug.model_validate(fields)


def unplug(device: str, deadline: str = "60s") -> Unplug:
    return Unplug.model_validate({"device": device, "deadline": deadline})


def memory(guest: FakeGuest, *mib: int) -> None:
    """The guest's MemTotal each time it is read."""
    guest.vm.says[ONLINE] = [f"{size * MIB // KIB}\n" for size in mib]


def devices(guest: FakeGuest, *there: list[str]) -> None:
    """What QEMU has, each time it is asked."""
    guest.vm.qmp["qom-list"] = [[{"name": name} for name in names] for names in there]


def asked(guest: FakeGuest, command: str) -> list[dict[str, Any]]:
    return [arguments for name, arguments in guest.vm.asked if name == command]


def test_a_dimm_is_added_and_waited_for_until_it_is_online(guest: FakeGuest) -> None:
    memory(guest, 200, 200, 263, 327)
    plug(device="dimm", size="128MiB").perform(guest)
    (backend,), (device,) = asked(guest, "object-add"), asked(guest, "device_add")
    assert (backend["qom-type"], backend["size"]) == ("memory-backend-ram", 128 * MIB)
    assert (device["driver"], device["memdev"]) == ("pc-dimm", backend["id"])
    (event,) = guest.recorded(DevicePlugged)
    assert (event.device, event.bytes, event.present) == ("dimm", 128 * MIB, True)
    assert event.seconds >= 0.2
    assert guest.reopened == 1, "the layout of its RAM is another"


def test_the_latest_of_several_dimms_goes_first(guest: FakeGuest) -> None:
    memory(guest, 200, 328, 328, 456)
    both = ["balloon0", "dimm1", "dimm0"]
    devices(guest, [], ["dimm0"], both, both, ["dimm0"])
    guest.vm.qmp["qom-get"] = 128 * MIB
    plug(device="dimm", size="128MiB").perform(guest)
    plug(device="dimm", size="128MiB").perform(guest)
    unplug("dimm").perform(guest)
    assert [device["id"] for device in asked(guest, "device_add")] == ["dimm0", "dimm1"]
    assert asked(guest, "device_del") == [{"id": "dimm1"}]
    (added, kept), (removed,) = asked(guest, "object-add"), asked(guest, "object-del")
    assert removed["id"] == kept["id"] != added["id"]


def test_a_guest_that_does_not_put_it_online_is_stuck(guest: FakeGuest) -> None:
    memory(guest, 200)
    with pytest.raises(GuestStuckError, match="for the guest to use the plugged dimm"):
        plug(device="dimm", size="128MiB", deadline="5s").perform(guest)
    assert not guest.recorded(DevicePlugged)


def test_virtio_mem_is_made_once_with_all_the_room_and_then_grows(guest: FakeGuest) -> None:
    guest.vm.spec = GuestSpec(256 * MIB, 1, hotplug=GIB)
    memory(guest, 200, 328, 328, 456)
    guest.vm.qmp["qom-get"] = [QmpError("device 'virtio-mem0' not found"), 128 * MIB]
    plug(device="virtio-mem", size="128MiB").perform(guest)
    plug(device="virtio-mem", size="128MiB").perform(guest)
    assert [backend["size"] for backend in asked(guest, "object-add")] == [GIB]
    assert [device["driver"] for device in asked(guest, "device_add")] == ["virtio-mem-pci"]
    wanted = {"path": f"{DEVICES}/{VIRTIO_MEM}", "property": "requested-size", "value": 128 * MIB}
    assert asked(guest, "qom-set") == [wanted, wanted]


def test_a_kernel_without_virtio_mem_is_a_skip(guest: FakeGuest) -> None:
    memory(guest, 200)
    guest.vm.says["modprobe virtio_mem"] = 1
    with pytest.raises(PreconditionError, match=r"\(6.1.0-test\) has no module virtio_mem"):
        plug(device="virtio-mem", size="128MiB").perform(guest)


@pytest.mark.parametrize("reporting", [True, False])
def test_a_balloon_comes_with_reporting_or_without(guest: FakeGuest, reporting: bool) -> None:
    guest.vm.says["drivers/virtio_balloon"] = [1, 1, 0]
    plug(device="balloon", free_page_reporting=reporting).perform(guest)
    (device,) = asked(guest, "device_add")
    assert device["id"] == BALLOON_ID
    assert device["free-page-reporting"] is reporting
    (changed,) = guest.recorded(DriverChanged)
    assert (changed.bound, changed.reporting) == (True, reporting)
    assert guest.reopened == 0


def test_a_balloon_that_gets_no_driver_is_stuck(guest: FakeGuest) -> None:
    guest.vm.says["drivers/virtio_balloon"] = 1
    with pytest.raises(GuestStuckError, match="to use the plugged balloon"):
        plug(device="balloon", deadline="5s").perform(guest)
    assert not guest.recorded(DriverChanged)


def test_a_dimm_goes_when_the_guest_lets_go_and_its_backend_after_it(guest: FakeGuest) -> None:
    devices(guest, ["dimm0"], ["dimm0"], ["dimm0"], [])
    guest.vm.qmp["qom-get"] = 128 * MIB
    unplug("dimm").perform(guest)
    names = [name for name, _arguments in guest.vm.asked]
    assert names.index("device_del") < names.index("object-del")
    (event,) = guest.recorded(DevicePlugged)
    assert (event.device, event.bytes, event.present) == ("dimm", 128 * MIB, False)
    assert guest.reopened == 1


def test_a_guest_that_could_not_let_go_is_asked_again(guest: FakeGuest) -> None:
    looks = int(2.5 * RETRY_SECONDS / 0.1)
    devices(guest, *looks * [[BALLOON_ID]], [])
    guest.vm.qmp["device_del"] = [{}, QmpError("Device is already in the process of unplug"), {}]
    unplug("balloon").perform(guest)
    assert len(asked(guest, "device_del")) == 3
    (changed,) = guest.recorded(DriverChanged)
    assert (changed.bound, changed.reporting) == (False, False)


def test_another_refusal_of_qemus_is_not_taken_for_patience(guest: FakeGuest) -> None:
    devices(guest, [BALLOON_ID])
    guest.vm.qmp["device_del"] = QmpError("Bus does not support hotplugging")
    with pytest.raises(QmpError, match="does not support"):
        unplug("balloon").perform(guest)


def test_a_guest_that_never_lets_go_is_stuck(guest: FakeGuest) -> None:
    devices(guest, ["dimm0"])
    guest.vm.qmp["qom-get"] = 128 * MIB
    with pytest.raises(GuestStuckError, match="for the guest to release the dimm"):
        unplug("dimm", "5s").perform(guest)
    assert not guest.recorded(DevicePlugged)


def test_virtio_mem_shrinks_to_nothing(guest: FakeGuest) -> None:
    guest.vm.qmp["qom-get"] = [128 * MIB, 64 * MIB, 0]
    unplug("virtio-mem").perform(guest)
    assert asked(guest, "qom-set")[0]["value"] == 0
    (event,) = guest.recorded(DevicePlugged)
    assert (event.bytes, event.present) == (128 * MIB, False)
