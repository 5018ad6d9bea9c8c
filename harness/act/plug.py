# SPDX-License-Identifier: Apache-2.0
"""Memory and the balloon device, plugged into the running guest and taken away again."""

from collections.abc import Callable

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import GuestStuckError, PreconditionError, QmpError
from harness.machine.command import BALLOON_ID, balloon_properties
from harness.record.events import DevicePlugged, DriverChanged
from harness.scenario.steps import PlugStep, UnplugStep
from harness.units import KIB, MIB, format_size

LOOK_SECONDS = 0.1
RETRY_SECONDS = 2.0
"""A guest that could not let go (a page of it was in use) is asked again."""

DEVICES = "/machine/peripheral"
DEVICE = "plugged0"
BACKEND = "plugged-memory0"

# Where the kernel does not put plugged memory online by itself it has to be told; the Movable zone
# can be taken offline again (Documentation/admin-guide/mm/memory-hotplug.rst).
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


def plug(session: GuestSession, step: PlugStep) -> None:
    """Return when the guest has it online, or its driver bound.

    Raises `QmpError`, `GuestStuckError`, and `PreconditionError` where the guest's kernel lacks
    the driver.
    """
    words = format_size(step.size) if step.size else f"reporting {step.free_page_reporting}"
    session.phase("plug", f"{step.device}, {words}")
    start = session.record.now()
    what = f"the guest to have the plugged {step.device}"
    deadline = Deadline(step.deadline, what, GuestStuckError)
    if step.device == "balloon":
        properties = balloon_properties(session.vm.spec, reporting=step.free_page_reporting)
        session.vm.monitor.execute("device_add", properties)
        _await(session, deadline, lambda: session.vm.shell.run(_BOUND, check=False).status == 0)
        session.record.add(
            DriverChanged(session.record.now(), bound=True, reporting=step.free_page_reporting)
        )
    else:
        before = _online(session)
        (_plug_dimm if step.device == "dimm" else _grow)(session, step.size)
        wanted = before + step.size - MIB
        _await(session, deadline, lambda: _online(session) >= wanted)
        session.observe(session.vm)
    _record(session, step, step.size, start)


def unplug(session: GuestSession, step: UnplugStep) -> None:
    """Return when the guest has let go. Raises `QmpError`, `GuestStuckError`."""
    session.phase("unplug", step.device)
    start = session.record.now()
    what = f"the guest to let go of the {step.device}"
    deadline = Deadline(step.deadline, what, GuestStuckError)
    size = 0
    if step.device == "virtio-mem":
        size = _size_of(session)
        _request(session, 0)
        _await(session, deadline, lambda: _size_of(session) == 0)
    else:
        if step.device == "dimm":
            size = int(_property(session, f"/objects/{BACKEND}", "size"))
        _delete(session, BALLOON_ID if step.device == "balloon" else DEVICE, deadline)
    if step.device == "balloon":
        session.record.add(DriverChanged(session.record.now(), bound=False, reporting=False))
    else:
        if step.device == "dimm":
            session.vm.monitor.execute("object-del", {"id": BACKEND})
        session.observe(session.vm)
    _record(session, step, size, start)


def _plug_dimm(session: GuestSession, size: int) -> None:
    monitor = session.vm.monitor
    backend = {"qom-type": "memory-backend-ram", "id": BACKEND, "size": size}
    monitor.execute("object-add", backend)
    monitor.execute("device_add", {"driver": "pc-dimm", "id": DEVICE, "memdev": BACKEND})


def _grow(session: GuestSession, size: int) -> None:
    """Let virtio-mem have so much, after making the device where there is none yet."""
    monitor = session.vm.monitor
    if session.vm.shell.run("modprobe virtio_mem", check=False).status:
        raise PreconditionError(
            f"the guest's kernel ({session.vm.kernel_release}) has no module virtio_mem"
        )
    try:
        _size_of(session)
    except QmpError:
        room = {"size": session.vm.spec.hotplug}
        monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": BACKEND, **room})
        monitor.execute("device_add", {"driver": "virtio-mem-pci", "id": DEVICE, "memdev": BACKEND})
    _request(session, size)


def _request(session: GuestSession, size: int) -> None:
    path = f"{DEVICES}/{DEVICE}"
    session.vm.monitor.execute(
        "qom-set", {"path": path, "property": "requested-size", "value": size}
    )


def _size_of(session: GuestSession) -> int:
    return int(_property(session, f"{DEVICES}/{DEVICE}", "size"))


def _property(session: GuestSession, path: str, name: str) -> int:
    return int(session.vm.monitor.execute("qom-get", {"path": path, "property": name}))


def _online(session: GuestSession) -> int:
    """Put plugged memory online; bytes of MemTotal."""
    return int(session.vm.shell.run(_ONLINE).stdout) * KIB


def _delete(session: GuestSession, device: str, deadline: Deadline) -> None:
    """Ask the guest to let go until QEMU has the device no more.

    QEMU's own event does not tell: 7.2 sends none for a balloon that something still refers to.
    """
    monitor = session.vm.monitor
    asked = None
    while True:
        if all(child["name"] != device for child in monitor.execute("qom-list", {"path": DEVICES})):
            return
        if asked is None or session.record.now() - asked >= RETRY_SECONDS:
            asked = session.record.now()
            try:
                monitor.execute("device_del", {"id": device})
            except QmpError as error:
                # QEMU refuses a second wish while the guest ponders the first.
                if "in the process of unplug" not in error.message:
                    raise
        deadline.check()
        session.vm.sleep_alive(LOOK_SECONDS)


def _await(session: GuestSession, deadline: Deadline, done: Callable[[], bool]) -> None:
    while not done():
        deadline.check()
        session.vm.sleep_alive(LOOK_SECONDS)


def _record(session: GuestSession, step: PlugStep | UnplugStep, size: int, start: float) -> None:
    now = session.record.now()
    plugged = isinstance(step, PlugStep)
    session.record.add(DevicePlugged(now, step.device, size, plugged, now - start))
    session.read_console()
