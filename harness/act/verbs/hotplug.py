# SPDX-License-Identifier: Apache-2.0
"""Plug memory or the balloon device into the running guest, and unplug it."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Self

from pydantic import StrictBool, model_validator

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.errors import GuestStuckError, PreconditionError, QmpError
from harness.machine.command import BALLOON_ID, balloon_properties
from harness.record.events import DevicePlugged, DriverChanged
from harness.scenario.fields import Seconds, Size
from harness.scenario.steps import Situation, Verb
from harness.units import KIB, MIB, format_size
from harness.yamlfile import Loc

LOOK_SECONDS = 0.1
RETRY_SECONDS = 2.0
"""Pause before a guest that could not release a device, for a page in use, is asked again."""

DEVICES = "/machine/peripheral"
DEVICE = "plugged0"
BACKEND = "plugged-memory0"

# Not every kernel puts plugged memory online by itself. Memory in zone Movable can be taken offline
# again (Documentation/admin-guide/mm/memory-hotplug.rst).
_ONLINE = """
for state in /sys/devices/system/memory/memory*/state; do
  read -r word <$state && [ "$word" = offline ] && echo online_movable >$state
done
while read -r name value _; do
  case $name in MemTotal:) echo $value ;; esac
done </proc/meminfo
"""
_BOUND = (
    "for d in /sys/bus/virtio/drivers/virtio_balloon/virtio*; do [ -e $d ] && exit 0; done; exit 1"
)


Device = Literal["dimm", "virtio-mem", "balloon"]


class Plug(Verb):
    """Plugs memory or the balloon into the running guest, and waits until the guest uses it. The
    guest boots with a balloon, so `unplug` it first.
    """

    verb: ClassVar[str] = "plug"
    moves_memory: ClassVar[bool] = True
    device: Device
    """The device to plug."""
    size: Size = 0
    """Size of the memory; the balloon has none."""
    free_page_reporting: StrictBool = True
    """Whether the balloon offers free page reporting."""
    deadline: Seconds = 60.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if (self.device == "balloon") == bool(self.size):
            raise ValueError("`size` is required for memory, and not allowed for the balloon")
        return self

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time for the guest to put it online."""
        return 4.0

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that it is not plugged, and room for memory."""
        if _is_plugged(self.device, before):
            yield ("device",), f"{self.device} is already plugged here"
        yield from _no_room(self.device, before)

    def after(self, before: Situation) -> Situation:
        """Note that it is plugged."""
        return _with(before, self.device, plugged=True)

    def perform(self, guest: Guest) -> None:
        """Plug the device and wait for the guest.

        Raises `QmpError`, `GuestStuckError`, and `PreconditionError` if the guest's kernel lacks
        the driver.
        """
        words = format_size(self.size) if self.size else f"reporting {self.free_page_reporting}"
        guest.phase("plug", f"{self.device}, {words}")
        start = guest.record.now()
        what = f"the guest to use the plugged {self.device}"
        deadline = Deadline(self.deadline * guest.vm.pace, what, GuestStuckError)
        if self.device == "balloon":
            properties = balloon_properties(guest.vm.spec, reporting=self.free_page_reporting)
            guest.vm.monitor.execute("device_add", properties)
            _await(guest, deadline, lambda: guest.vm.shell.run(_BOUND, check=False).status == 0)
            guest.record.add(
                DriverChanged(guest.record.now(), bound=True, reporting=self.free_page_reporting)
            )
        else:
            before = _online(guest)
            (_plug_dimm if self.device == "dimm" else _grow)(guest, self.size)
            wanted = before + self.size - MIB
            _await(guest, deadline, lambda: _online(guest) >= wanted)
            guest.reopen_instruments()
        _record(guest, self.device, self.size, start, plugged=True)


class Unplug(Verb):
    """Unplugs a device from the running guest, and waits until the guest has released it."""

    verb: ClassVar[str] = "unplug"
    moves_memory: ClassVar[bool] = True
    device: Device
    """The device to unplug."""
    deadline: Seconds = 60.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time for the guest to take it offline."""
        return 4.0

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that it is plugged."""
        if not _is_plugged(self.device, before):
            yield ("device",), f"{self.device} is not plugged here"
        yield from _no_room(self.device, before)

    def after(self, before: Situation) -> Situation:
        """Note that it is unplugged."""
        return _with(before, self.device, plugged=False)

    def perform(self, guest: Guest) -> None:
        """Unplug the device and wait for the guest. Raises `QmpError`, `GuestStuckError`."""
        guest.phase("unplug", self.device)
        start = guest.record.now()
        what = f"the guest to release the {self.device}"
        deadline = Deadline(self.deadline * guest.vm.pace, what, GuestStuckError)
        size = 0
        if self.device == "virtio-mem":
            size = _size_of(guest)
            _request(guest, 0)
            _await(guest, deadline, lambda: _size_of(guest) == 0)
        else:
            if self.device == "dimm":
                size = int(_property(guest, f"/objects/{BACKEND}", "size"))
            _delete(guest, BALLOON_ID if self.device == "balloon" else DEVICE, deadline)
        if self.device == "balloon":
            guest.record.add(DriverChanged(guest.record.now(), bound=False, reporting=False))
        else:
            if self.device == "dimm":
                guest.vm.monitor.execute("object-del", {"id": BACKEND})
            guest.reopen_instruments()
        _record(guest, self.device, size, start, plugged=False)


def _fact(device: Device) -> str:
    """Name what differs from a guest that has just booted, with a balloon and no plugged memory."""
    return "balloon unplugged" if device == "balloon" else f"{device} plugged"


def _is_plugged(device: Device, situation: Situation) -> bool:
    return (_fact(device) in situation.facts) == (device != "balloon")


def _with(situation: Situation, device: Device, *, plugged: bool) -> Situation:
    if plugged == (device != "balloon"):
        return situation.having(_fact(device))
    return situation.lacking(_fact(device))


def _no_room(device: Device, situation: Situation) -> Iterator[tuple[Loc, str]]:
    if device != "balloon" and not situation.hotplug:
        yield (), "needs room to plug memory; set guest.hotplug"


def _plug_dimm(guest: Guest, size: int) -> None:
    monitor = guest.vm.monitor
    backend = {"qom-type": "memory-backend-ram", "id": BACKEND, "size": size}
    monitor.execute("object-add", backend)
    monitor.execute("device_add", {"driver": "pc-dimm", "id": DEVICE, "memdev": BACKEND})


def _grow(guest: Guest, size: int) -> None:
    """Request `size` bytes from virtio-mem, after creating the device if there is none."""
    monitor = guest.vm.monitor
    if guest.vm.shell.run("modprobe virtio_mem", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({guest.vm.kernel_release}) has no module virtio_mem"
        )
    try:
        _size_of(guest)
    except QmpError:
        room = {"size": guest.vm.spec.hotplug}
        monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": BACKEND, **room})
        monitor.execute("device_add", {"driver": "virtio-mem-pci", "id": DEVICE, "memdev": BACKEND})
    _request(guest, size)


def _request(guest: Guest, size: int) -> None:
    path = f"{DEVICES}/{DEVICE}"
    guest.vm.monitor.execute("qom-set", {"path": path, "property": "requested-size", "value": size})


def _size_of(guest: Guest) -> int:
    return int(_property(guest, f"{DEVICES}/{DEVICE}", "size"))


def _property(guest: Guest, path: str, name: str) -> int:
    return int(guest.vm.monitor.execute("qom-get", {"path": path, "property": name}))


def _online(guest: Guest) -> int:
    """Put plugged memory online, and return MemTotal in bytes."""
    return int(guest.vm.shell.run(_ONLINE).stdout) * KIB


def _delete(guest: Guest, device: str, deadline: Deadline) -> None:
    """Ask the guest to release a device until QEMU has removed it.

    DEVICE_DELETED is not reliable: QEMU 7.2 sends none for a balloon that is still referenced.
    """
    monitor = guest.vm.monitor
    asked = None
    while True:
        if all(child["name"] != device for child in monitor.execute("qom-list", {"path": DEVICES})):
            return
        if asked is None or guest.record.now() - asked >= RETRY_SECONDS:
            asked = guest.record.now()
            try:
                monitor.execute("device_del", {"id": device})
            except QmpError as error:
                # QEMU refuses a second request while the guest handles the first.
                if "in the process of unplug" not in error.message:
                    raise
        deadline.check()
        guest.vm.sleep_alive(LOOK_SECONDS)


def _await(guest: Guest, deadline: Deadline, done: Callable[[], bool]) -> None:
    while not done():
        deadline.check()
        guest.vm.sleep_alive(LOOK_SECONDS)


def _record(guest: Guest, device: Device, size: int, start: float, *, plugged: bool) -> None:
    now = guest.record.now()
    guest.record.add(DevicePlugged(now, device, size, plugged, now - start))
    guest.read_console()
