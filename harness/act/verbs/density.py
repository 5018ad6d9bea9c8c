# SPDX-License-Identifier: Apache-2.0
"""Start further guests: how many fit under a limit, and how much the host holds for them."""

import contextlib
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field, StrictBool, StrictInt

from harness.act.guest import Guest, Watched
from harness.act.testimony import CANARY, record_testimony
from harness.act.verbs.churn import phase_seconds
from harness.act.verbs.settle import wait_settled
from harness.errors import LaunchError, QemuGoneError
from harness.guest.churn_client import ChurnSession
from harness.guest.witness_client import WitnessSession
from harness.observe.host_noise import HostNoiseReader
from harness.record.events import ChurnVerified, CrowdFull, CrowdGrew
from harness.scenario.fields import MemoryShare, Size
from harness.scenario.steps import Verb
from harness.units import format_size

SETTLE_SECONDS = 60.0
GUEST_SECONDS = 12.0
"""Usual time under TCG for a guest to boot, fill memory, free it and settle."""


class Crowd(Verb):
    """Starts guests like this one, one after another, until filling one more takes their sum over
    a limit, or QEMU cannot start one. Each guest fills memory, verifies it and frees it, and the
    next one starts when it has settled. The consoles of all guests are watched, and a witness in
    each verifies at the end what nobody else does.
    """

    verb: ClassVar[str] = "crowd"
    real_clock: ClassVar[str] = "its guests share one time, and each would have a clock of its own"
    limit: Size
    """Limit of the guest memory that the host holds for all of them together."""
    touch: MemoryShare
    """How much each guest fills and frees: a share of its memory (`80%`), or a size."""
    most: Annotated[StrictInt, Field(ge=1, le=64)] = 16
    """The most guests to start, this one included. If all of them fit, how many more would have is
    not known."""
    boot_first: StrictBool = False
    """Whether all `most` guests boot before the first one fills memory."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time for `most` guests."""
        return GUEST_SECONDS * self.most

    def host_memory(self, memory: int) -> int:
        """Bound it: at most one guest's memory exceeds the limit."""
        return memory + self.limit + memory

    def perform(self, guest: Guest) -> None:
        """Start guests until the limit. Raises what `launch`, instruments and churn tool raise."""
        with contextlib.ExitStack() as ended:
            crowd = _Members(guest, ended, [guest])
            self._grow(guest, crowd)
            for number, witness in crowd.witnesses.items():
                record_testimony(witness, guest.record, f"guest {number}: ")

    def _grow(self, guest: Guest, crowd: "_Members") -> None:
        if self.boot_first:
            for number in range(2, self.most + 1):
                if not crowd.join(number):
                    return
        for number in range(1, self.most + 1):
            if number > len(crowd.guests) and not crowd.join(number):
                return
            if not self._work(guest, crowd.guests, number):
                return
        words = f"all {self.most} guests fit"
        guest.record.add(CrowdFull(guest.record.now(), words, all_fit=True))

    def _work(self, guest: Guest, guests: list[Watched], number: int) -> bool:
        """Fill and free memory in one guest; False if that took the sum over the limit."""
        working = guests[number - 1]
        size = self.touch.of(working.vm.spec.memory)
        guest.phase("crowd", f"guest {number} fills {format_size(size)}")
        with ChurnSession.start(
            working.vm.shell,
            size=size,
            seed=number,
            hugepages="default",
            timeout=phase_seconds(size),
        ) as tool:
            peak = _held(guests)
            seen = tool.verify(timeout=phase_seconds(size))
            tool.free_all()
        guest.record.add(
            ChurnVerified(
                guest.record.now(),
                bytes=seen.checked_bytes,
                mismatched_pages=seen.mismatched_pages,
                detail=tuple(f"guest {number}: {words}" for words in seen.details),
                unchecked=max(0, seen.held_bytes - seen.checked_bytes),
                damaged=seen.damaged,
                by="crowd",
            )
        )
        if peak > self.limit:
            words = f"{number} guests held {format_size(peak)}, over {format_size(self.limit)}"
            guest.record.add(CrowdFull(guest.record.now(), words))
            return False
        guest.phase("crowd", f"guest {number} reports what it freed")
        wait_settled(working, SETTLE_SECONDS)
        guest.record.add(
            CrowdGrew(
                guest.record.now(),
                guests=number,
                peak=peak,
                held=_held(guests),
                available=HostNoiseReader().read().mem_available,
            )
        )
        return True


@dataclass
class _Members:
    """The guests of a crowd, the first one included, and the witnesses in the others."""

    first: Guest
    ended: contextlib.ExitStack
    guests: list[Watched]
    witnesses: dict[int, WitnessSession] = field(default_factory=dict)
    """By the guest's number; a run has a witness of its own in the first."""

    def join(self, number: int) -> bool:
        """Boot one more guest; False if its QEMU ended, which is recorded as the crowd's limit.

        Other errors say nothing about room for the guest, and are raised.
        """
        self.first.phase("crowd", f"guest {number} boots")
        try:
            joined = self.first.another(number)
        except LaunchError as error:
            if not isinstance(error.__cause__, QemuGoneError):
                raise
            words = f"guest {number} did not start: {error.message.splitlines()[0]}"
            self.first.record.add(CrowdFull(self.first.record.now(), words))
            return False
        self.guests.append(joined)
        witness = WitnessSession.start(joined.vm.shell, size=CANARY)
        self.witnesses[number] = self.ended.enter_context(witness)
        return True


def _held(guests: list[Watched]) -> int:
    return sum(guest.instruments.mapping.read().held for guest in guests)
