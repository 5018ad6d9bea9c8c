# SPDX-License-Identifier: Apache-2.0
"""Guests beside the first one: how many fit under a limit, and what each leaves with the host."""

from harness.act.churn import phase_seconds
from harness.act.session import GuestSession
from harness.act.settle import Watched, wait_settled
from harness.errors import LaunchError, QemuGoneError
from harness.guest.churn_client import ChurnSession
from harness.machine.vm import VirtualMachine
from harness.observe.discards import DiscardLog
from harness.observe.features import read_balloon_state
from harness.observe.host_noise import HostNoiseReader
from harness.observe.mapping import HostMappingReader
from harness.observe.ram_layout import RamLayout
from harness.record.events import CrowdFull, CrowdGrew
from harness.scenario.steps import CrowdStep
from harness.units import format_size

SETTLE_SECONDS = 60.0


def crowd(session: GuestSession, step: CrowdStep) -> None:
    """Each guest fills its share and frees it; the next begins when it has settled.

    Ends where filling another takes all of them over the limit, where QEMU cannot start one, or at
    `most`. Raises what booting, the instruments and the churn tool raise.
    """
    first = Watched.of(session)
    guests = [first]
    if step.boot_first:
        for number in range(2, step.most + 1):
            if not _join(session, guests, number):
                return
    for number in range(1, step.most + 1):
        if number > len(guests) and not _join(session, guests, number):
            return
        guest = guests[number - 1]
        size = step.touch.of(guest.vm.spec.memory)
        session.phase("crowd", f"guest {number} fills {format_size(size)}")
        with ChurnSession.start(
            guest.vm.shell, size=size, seed=number, hugepages="default", timeout=phase_seconds(size)
        ) as tool:
            peak = _held(guests)
            tool.free_all()
        if peak > step.limit:
            words = f"{number} guests held {format_size(peak)}, over {format_size(step.limit)}"
            session.record.add(CrowdFull(session.record.now(), words))
            return
        session.phase("crowd", f"guest {number} reports what it freed")
        wait_settled(guest, SETTLE_SECONDS)
        session.record.add(
            CrowdGrew(
                session.record.now(),
                guests=number,
                peak=peak,
                held=_held(guests),
                available=HostNoiseReader().read().mem_available,
            )
        )
    session.record.add(CrowdFull(session.record.now(), f"all {step.most} guests fit"))


def _join(session: GuestSession, guests: list[Watched], number: int) -> bool:
    """Boot one more. One whose QEMU does not live is the crowd's end, and recorded.

    Whatever else keeps a guest from becoming ready says nothing of the room for it, and is raised.
    """
    session.phase("crowd", f"guest {number} boots")
    try:
        guests.append(_watch(session.vm.another(number)))
    except LaunchError as error:
        if not isinstance(error.__cause__, QemuGoneError):
            raise
        words = f"guest {number} did not start: {error.message.splitlines()[0]}"
        session.record.add(CrowdFull(session.record.now(), words))
        return False
    return True


def _held(guests: list[Watched]) -> int:
    return sum(guest.mapping.read().held for guest in guests)


def _watch(vm: VirtualMachine) -> Watched:
    balloon = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
    layout = RamLayout.read(vm.monitor)
    discards = DiscardLog(vm.discard_log, layout, errors=vm.qemu_log)
    return Watched(vm, HostMappingReader(vm.pid, layout), discards, balloon.page_reporting_order)
