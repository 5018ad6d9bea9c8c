# SPDX-License-Identifier: Apache-2.0
"""Unbind the balloon driver from its device in the guest, and bind it again."""

from typing import Literal

from harness.act.session import GuestSession
from harness.errors import DeadlineError, GuestStuckError
from harness.record.events import DriverChanged
from harness.scenario.steps import BindStep, UnbindStep

DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"
DRIVER_SECONDS = 30.0
"""Unbinding waits for the reporting worker, which may be in the middle of a pass."""

# Device id 5 is the traditional memory balloon (virtio specification 1.2, section 5.5.1).
_FIND = (
    "for d in /sys/bus/virtio/devices/*; do "
    '[ "$(cat $d/device)" = 0x0005 ] && device=${d##*/}; done; '
    '[ -n "$device" ] || { echo "no virtio balloon device in the guest" >&2; exit 1; }; '
)


def unbind(session: GuestSession, _step: UnbindStep) -> None:
    """Take the driver off the device. Raises `GuestError`, `GuestStuckError`."""
    session.phase("unbind", "virtio_balloon")
    _write(session, "unbind", f"[ ! -e {DRIVER}/$device ]")
    session.record.add(DriverChanged(session.record.now(), bound=False))


def bind(session: GuestSession, _step: BindStep) -> None:
    """Give the device its driver again. Raises `GuestError`, `GuestStuckError`."""
    session.phase("bind", "virtio_balloon")
    _write(session, "bind", f"[ -e {DRIVER}/$device ]")
    session.record.add(DriverChanged(session.record.now(), bound=True))


def _write(session: GuestSession, what: Literal["bind", "unbind"], done: str) -> None:
    try:
        session.vm.shell.run(
            f"{_FIND}echo $device > {DRIVER}/{what} && {done}", timeout=DRIVER_SECONDS
        )
    except DeadlineError as error:
        raise GuestStuckError(
            f"the guest's kernel did not {what} the balloon driver within {DRIVER_SECONDS:.0f} s"
        ) from error
