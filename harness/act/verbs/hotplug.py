# SPDX-License-Identifier: Apache-2.0
"""Plug memory or the balloon device into the running guest, and unplug it."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Self

from pydantic import StrictBool, model_validator

from harness.act.guest import Guest
from harness.act.seen_pages import SeenPages
from harness.deadline import Deadline
from harness.errors import GuestStuckError, PreconditionError, QmpError
from harness.machine.command import BALLOON_ID, MEMORY_SLOTS, balloon_properties
from harness.record.events import DevicePlugged, DriverChanged
from harness.scenario.fields import Seconds, Size
from harness.scenario.steps import Situation, Verb
from harness.units import KIB, MIB, format_size
from harness.yamlfile import Loc

LOOK_SECONDS = 0.1
RETRY_SECONDS = 2.0
"""Pause before a guest that could not release a device, for a page in use, is asked again."""

DEVICES = "/machine/peripheral"
VIRTIO_MEM = "virtio-mem0"
DIMM = "dimm"
"""Followed by its number, counted from 0."""

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
    guest boots with a balloon, so `unplug` it first. Several DIMMs can be plugged one after
    another.
    """

    verb: ClassVar[str] = "plug"
    through_qmp: ClassVar[bool] = True
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
        if self.device != "dimm" and _is_plugged(self.device, before):
            yield ("device",), f"{self.device} is already plugged here"
        if self.device == "dimm" and _dimms(before) == MEMORY_SLOTS:
            yield ("device",), f"all {MEMORY_SLOTS} slots for DIMMs are taken here"
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
    """Unplugs a device from the running guest, and waits until the guest has released it; of
    several DIMMs, the latest.
    """

    verb: ClassVar[str] = "unplug"
    through_qmp: ClassVar[bool] = True
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
        if self.device == "balloon":
            _delete(guest, BALLOON_ID, deadline)
            guest.record.add(DriverChanged(guest.record.now(), bound=False, reporting=False))
        else:
            if self.device == "dimm":
                size = _unplug_dimm(guest, deadline)
            else:
                size = _size_of(guest)
                _request(guest, 0)
                _await(guest, deadline, lambda: _size_of(guest) == 0)
            guest.reopen_instruments()
            guest.kept(SeenPages).keep_only(guest.instruments.layout)
        _record(guest, self.device, size, start, plugged=False)


def _fact(device: Device, number: int = 0) -> str:
    """Name what differs from a guest that has just booted, with a balloon and no plugged memory."""
    return "balloon unplugged" if device == "balloon" else f"{device} {number} plugged"


def _dimms(situation: Situation) -> int:
    return sum(_fact("dimm", number) in situation.facts for number in range(MEMORY_SLOTS))


def _is_plugged(device: Device, situation: Situation) -> bool:
    if device == "dimm":
        return _dimms(situation) > 0
    return (_fact(device) in situation.facts) == (device != "balloon")


def _with(situation: Situation, device: Device, *, plugged: bool) -> Situation:
    number = _dimms(situation) - (not plugged) if device == "dimm" else 0
    if plugged == (device != "balloon"):
        return situation.having(_fact(device, number))
    return situation.lacking(_fact(device, number))


def _no_room(device: Device, situation: Situation) -> Iterator[tuple[Loc, str]]:
    if device != "balloon" and not situation.hotplug:
        yield (), "needs room to plug memory; set guest.hotplug"


def _plug_dimm(guest: Guest, size: int) -> None:
    name = f"{DIMM}{len(_plugged_dimms(guest))}"
    _add_memory(guest, name, size, "pc-dimm")


def _unplug_dimm(guest: Guest, deadline: Deadline) -> int:
    """Unplug the latest DIMM, and return its size in bytes."""
    name = _plugged_dimms(guest)[-1]
    size = int(_property(guest, f"/objects/{_memory_of(name)}", "size"))
    _delete(guest, name, deadline)
    guest.vm.monitor.execute("object-del", {"id": _memory_of(name)})
    return size


def _plugged_dimms(guest: Guest) -> list[str]:
    return sorted(name for name in _devices(guest) if name.startswith(DIMM))


def _devices(guest: Guest) -> list[str]:
    return [child["name"] for child in guest.vm.monitor.execute("qom-list", {"path": DEVICES})]


def _add_memory(guest: Guest, name: str, size: int, driver: str) -> None:
    memory = {"qom-type": "memory-backend-ram", "id": _memory_of(name), "size": size}
    guest.vm.monitor.execute("object-add", memory)
    device = {"driver": driver, "id": name, "memdev": _memory_of(name)}
    guest.vm.monitor.execute("device_add", device)


def _memory_of(device: str) -> str:
    return f"{device}-memory"


def _grow(guest: Guest, size: int) -> None:
    """Request `size` bytes from virtio-mem, after creating the device if there is none."""
    if guest.vm.shell.run("modprobe virtio_mem", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({guest.vm.kernel_release}) has no module virtio_mem"
        )
    try:
        _size_of(guest)
    except QmpError:
        _add_memory(guest, VIRTIO_MEM, guest.vm.spec.hotplug, "virtio-mem-pci")
    _request(guest, size)


def _request(guest: Guest, size: int) -> None:
    path = f"{DEVICES}/{VIRTIO_MEM}"
    guest.vm.monitor.execute("qom-set", {"path": path, "property": "requested-size", "value": size})


def _size_of(guest: Guest) -> int:
    return int(_property(guest, f"{DEVICES}/{VIRTIO_MEM}", "size"))


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
        if device not in _devices(guest):
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
