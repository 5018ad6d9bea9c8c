# SPDX-License-Identifier: Apache-2.0
"""Unbind the balloon driver from its device in the guest, and bind it again."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from harness.act.guest import Guest
from harness.errors import DeadlineError, GuestError, GuestStuckError
from harness.record.events import ConsoleFinding, DriverChanged
from harness.scenario.steps import Situation, Verb
from harness.yamlfile import Loc

DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"
DRIVER_SECONDS = 30.0
"""Deadline; unbinding waits for the reporting worker, which may be in the middle of a pass."""

NO_DEVICE = 3
"""Exit status."""

# Device id 5 is the traditional memory balloon (virtio specification 1.2, section 5.5.1).
_FIND = (
    "for d in /sys/bus/virtio/devices/*; do "
    '[ "$(cat $d/device)" = 0x0005 ] && device=${d##*/}; done; '
    '[ -n "$device" ] || '
    f'{{ echo "no virtio balloon device in the guest" >&2; exit {NO_DEVICE}; }}; '
)


UNBOUND = "driver unbound"


class Unbind(Verb):
    """Unbinds the balloon driver from its device in the guest."""

    verb: ClassVar[str] = "unbind"

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that the driver is bound."""
        if UNBOUND in before.facts:
            yield (), "the driver is already unbound"

    def after(self, before: Situation) -> Situation:
        """Note that the driver is unbound."""
        return before.having(UNBOUND)

    def perform(self, guest: Guest) -> None:
        """Unbind the driver. Raises `GuestError`, `GuestStuckError`."""
        guest.phase("unbind", "virtio_balloon")
        _write(guest, "unbind", f"[ ! -e {DRIVER}/$device ]")
        guest.record.add(DriverChanged(guest.record.now(), bound=False))


class Bind(Verb):
    """Binds the balloon driver to its device again."""

    verb: ClassVar[str] = "bind"

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that the driver is unbound."""
        if UNBOUND not in before.facts:
            yield (), "the driver is already bound"

    def after(self, before: Situation) -> Situation:
        """Note that the driver is bound."""
        return before.lacking(UNBOUND)

    def perform(self, guest: Guest) -> None:
        """Bind the driver. Raises `GuestError`, `GuestStuckError`."""
        guest.phase("bind", "virtio_balloon")
        _write(guest, "bind", f"[ -e {DRIVER}/$device ]")
        guest.record.add(DriverChanged(guest.record.now(), bound=True))


def _write(guest: Guest, what: Literal["bind", "unbind"], done: str) -> None:
    command = f"{_FIND}echo $device > {DRIVER}/{what} && {done}"
    try:
        result = guest.vm.shell.run(command, timeout=DRIVER_SECONDS, check=False)
    except DeadlineError as error:
        seconds = DRIVER_SECONDS * guest.vm.pace
        raise GuestStuckError(
            f"the guest's kernel did not {what} the balloon driver within {seconds:.0f} s"
        ) from error
    if not result.status:
        return
    words = result.stderr.decode(errors="replace").strip()[-200:]
    if result.status == NO_DEVICE:
        raise GuestError(words)
    title = f"the guest's kernel refused to {what} the balloon driver: {words}"
    # No scenario is to blame for that: a driver that was bound can be unbound, and bound again.
    guest.record.add(ConsoleFinding(guest.record.now(), "warning", title, words, on_console=False))
    raise GuestError(title)
