# SPDX-License-Identifier: Apache-2.0
"""Restart the machine or only its kernel, and go on with the guest that boots again."""

from collections.abc import Iterator
from typing import ClassVar, Self

from pydantic import StrictBool, model_validator

from harness.act.guest import Guest
from harness.act.seen_pages import SeenPages
from harness.act.verbs.load_kernel import LOADED
from harness.deadline import Deadline
from harness.errors import GuestStuckError
from harness.machine.interposer import slow_from
from harness.machine.reset import Restart, Way
from harness.record.events import Measured
from harness.record.facts import Cause
from harness.scenario.fields import Seconds
from harness.scenario.steps import Situation, Verb
from harness.yamlfile import Loc

MEASURE = "discarded_while_leaving_bytes"

INTO_PASS_SECONDS = 0.5
"""How long after the next reporting pass begins the guest goes: within the first call of a slow
host, which would take 4.8 s (`SLOW_SECONDS` for each of 32 blocks)."""

SLOW_FOR_SECONDS = 1.5
"""How long the host is slow from then on. A host that stayed so would hold QEMU's lock most of the
time, and the guest, which needs it for each character on its console, would go only when all is
reported."""

_COMMANDS = {
    "reboot": "busybox reboot -f",
    "poweroff": "busybox poweroff -f",
    "kexec": "fpr-guest kexec go",
}


class Reboot(Verb):
    """Restarts the guest, and waits until it has booted again. The host keeps what the old kernel
    held until the new one reports it.
    """

    verb: ClassVar[str] = "reboot"
    through_qmp: ClassVar[bool] = True
    moves_memory: ClassVar[bool] = True
    breaks_connection: ClassVar[bool] = True
    way: Way = "reset"
    """`reset`: of the machine, without a word to the guest; `reboot` and `poweroff`: by the guest's
    kernel, after which the machine is reset, or switched on again; `kexec`: by the guest's kernel,
    which starts the one of the step `load_kernel` in the running machine."""
    reporting: StrictBool = False
    """Whether the old kernel must be reporting when it goes: it goes half a second after its next
    pass begins, and `host: {discard: slow}` makes discards slow at that time. Free memory right
    before. Measures `discarded_while_leaving_bytes`: from the order to go until the next kernel
    starts."""
    deadline: Seconds = 120.0
    """If it passes, the run is a FAIL, `guest-hang`."""

    @model_validator(mode="after")
    def _it_is_told(self) -> Self:
        if self.reporting and self.way == "reset":
            raise ValueError("reporting: a reset does not wait for a pass; take another `way`")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """The bytes that the host discarded from the order to go until the next kernel started."""
        return (MEASURE,) if self.reporting else ()

    def expected_seconds(self, _memory: int) -> float:
        """Return the time of a boot, and of the reports before it."""
        return 12.0 if self.reporting else 8.0

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require a guest as it has booted: what is held, busy, plugged or unbound is lost."""
        facts = before.facts - {LOADED}
        if facts:
            yield (), f"it would undo what steps before it did ({', '.join(sorted(facts))})"
        if self.way == "kexec" and LOADED not in before.facts:
            yield ("way",), "no kernel is loaded; `load_kernel` comes before it"

    def after(self, before: Situation) -> Situation:
        """Only what it booted with is left to the guest."""
        return before.lacking(LOADED)

    def perform(self, guest: Guest) -> None:
        """Restart and wait. Raises `QmpError`, `SshError`, `GuestStuckError`."""
        guest.phase("reboot", self.way)
        seconds = self.deadline * guest.vm.pace
        deadline = Deadline(seconds, "the guest to boot again", GuestStuckError)
        wait = guest.pass_seconds + INTO_PASS_SECONDS if self.reporting else 0.0
        command = (
            ""
            if self.way == "reset"
            else f"(sleep {wait:g}; exec {_COMMANDS[self.way]}) >/dev/null 2>&1 &"
        )
        slowly = slow_from(guest.vm.directory)
        start, ordered = _discarded(guest), guest.record.now()

        def leaving() -> None:
            if guest.record.now() > ordered + wait + SLOW_FOR_SECONDS:
                slowly.unlink(missing_ok=True)

        def away() -> None:
            discarded = _discarded(guest)
            if self.reporting and start is not None and discarded is not None:
                guest.record.add(
                    Measured(
                        guest.record.now(), MEASURE, float(discarded - start), Cause.NOT_REPORTED
                    )
                )

        if self.reporting and guest.vm.spec.discard == "slow":
            slowly.touch()
        try:
            guest.reboot(deadline, Restart(self.way, command, leaving, away))
        finally:
            slowly.unlink(missing_ok=True)
        # What a page held before says nothing of what it must hold now.
        guest.kept(SeenPages).begin(guest.instruments)
        guest.read_console()


def _discarded(guest: Guest) -> int | None:
    """Bytes that QEMU has discarded so far; None if it traces no discards."""
    totals = guest.instruments.discards.read()
    return None if totals is None else totals.bytes
