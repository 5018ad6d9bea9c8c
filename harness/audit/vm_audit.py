# SPDX-License-Identifier: Apache-2.0
"""Takes one audit of a VM that the harness did not start: both sides, or the host's alone."""

import datetime
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from harness.audit.account import GuestAccount, guest_account, parts_of
from harness.audit.advice import advise
from harness.audit.audit_document import Audit, Guest, Vm
from harness.audit.both_sides import BothSides, read_both
from harness.audit.guest_told import GuestFacts, parse_facts
from harness.audit.host_side import HostReader, HostSide
from harness.audit.qemu_facts import QemuFacts
from harness.audit.qemu_list import QemuProcess
from harness.audit.unknowns import unknowns
from harness.errors import ObserveError
from harness.guest.page_stream import PageReader
from harness.kernel.pages import StateArray
from harness.kernel.zones import Zone
from harness.machine.interfaces import GuestShell
from harness.observe.ram_layout import RamLayout
from harness.record.address_map import RamPiece
from harness.units import format_size

_PAGE_POISON = 4
"""VIRTIO_BALLOON_F_PAGE_POISON, include/uapi/linux/virtio_balloon.h."""

_FILLED = re.compile(r"(?:init_on_free|page_poison)=(?:1|on|y|Y)")
"""Has freed pages filled, with zeros or a pattern (mm/page_alloc.c, mm/page_poison.c)."""

_NO_UUID = "00000000-0000-0000-0000-000000000000"


class Visit(GuestShell, Protocol):
    """A way into a guest: it tells of itself, and then streams the state of its pages."""

    def facts(self) -> str:
        """Return what `FACTS_SCRIPT` prints there. Raises `SshError`, `DeadlineError`."""


VisitMaker = Callable[[], AbstractContextManager[Visit]]


@dataclass(frozen=True)
class _Look:
    """Both sides at one moment."""

    host: HostSide
    states: StateArray
    """HostState by PFN."""
    host_seconds: float
    guest: Guest | None = None
    sides: BothSides | None = None
    zones: tuple[Zone, ...] = ()


@dataclass(frozen=True)
class Taken:
    """An audit, and the pages that it was made from."""

    audit: Audit
    states: StateArray
    """HostState by PFN."""
    pieces: tuple[RamPiece, ...]
    """Of guest RAM."""
    sides: BothSides | None
    """None if the guest did not show the state of its pages."""
    zones: tuple[Zone, ...]
    """Of the guest; empty if it was not looked into."""


class _TimedResidency:
    """Reads the residency of all pages and, right after it, the process's own counters."""

    def __init__(self, host: HostReader) -> None:
        self.layout: RamLayout = host.residency.layout
        self.side: HostSide | None = None
        self.seconds = 0.0
        self._host = host

    def read(self) -> StateArray:
        start = time.monotonic()
        states = self._host.residency.read()
        self.side = self._host.read(states)
        self.seconds += time.monotonic() - start
        return states

    def taken(self) -> HostSide:
        assert self.side is not None
        return self.side


def take_vm_audit(
    process: QemuProcess, facts: QemuFacts, visit: VisitMaker | None, *, asked: float = 0.0
) -> Taken:
    """Audit the VM; `visit`: the way into its guest, None for the host's side alone.

    `asked`: seconds that asking QEMU for the facts took.
    Raises `ObserveError`, `SshError`, `GuestError`, `DeadlineError`.
    """
    start = time.monotonic() - asked
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if visit is not None and facts.state != "running":
        raise ObserveError(
            f"the guest cannot be looked into: it does not run (QEMU says {facts.state})",
            hint="resume it, or leave out the way in: the host's side alone can be audited",
        )
    host = HostReader(process.pid, facts)
    asked = time.monotonic() - start
    look = _host_alone(host) if visit is None else _both(host, facts, visit)
    account = look.guest.account if look.guest is not None else None
    balloon = facts.balloon
    audit = Audit(
        schema=1,
        at=at,
        seconds=time.monotonic() - start,
        host_seconds=asked + look.host_seconds,
        vm=Vm(
            pid=process.pid,
            name=facts.name,
            uuid=facts.uuid,
            user=process.user,
            qemu=facts.version,
            memory=look.host.ram.size,
        ),
        total=look.host.total,
        parts=parts_of(look.host, account),
        host=look.host,
        backends=facts.backends,
        balloon=balloon,
        inhibitors=facts.inhibitors,
        guest=look.guest,
        unknown=unknowns(look.host, facts.backends, balloon, look.guest),
        advice=advise(look.host, facts.backends, balloon, facts.inhibitors, look.guest),
        keepers=None,
    )
    return Taken(audit, look.states, facts.layout.pieces, look.sides, look.zones)


def _host_alone(host: HostReader) -> _Look:
    residency = _TimedResidency(host)
    states = residency.read()
    return _Look(residency.taken(), states, residency.seconds)


def _both(host: HostReader, qemu: QemuFacts, visit: VisitMaker) -> _Look:
    offered = qemu.balloon is not None and qemu.balloon.offered
    residency = _TimedResidency(host)
    with visit() as way:
        guest = parse_facts(way.facts(), offered=offered, at=time.monotonic())
        check_identity(qemu, guest)
        if not guest.page_flags:
            states = residency.read()
            return _Look(residency.taken(), states, residency.seconds, _guest(guest, None))
        with PageReader(way, qemu.layout.pfn_end, kinds=True) as pages:
            sides = read_both(pages, residency.read, guest.offline)
    account = guest_account(sides, guest)
    if guest.uuid != qemu.uuid.lower():
        check_written(account, guest)
    return _Look(
        residency.taken(),
        sides.host,
        residency.seconds,
        _guest(guest, account),
        sides,
        guest.counters.zones,
    )


def check_identity(qemu: QemuFacts, guest: GuestFacts) -> None:
    """Raise `ObserveError` if the machine that was logged in to cannot be this VM's guest."""
    if qemu.uuid != _NO_UUID and guest.uuid and guest.uuid != qemu.uuid.lower():
        raise ObserveError(
            f"the machine that was logged in to is not this VM: its UUID is {guest.uuid}, the VM's "
            f"{qemu.uuid}",
            hint="check the address after --ssh",
        )
    end = max(zone.start_pfn + zone.spanned for zone in guest.counters.zones)
    if end > qemu.layout.pfn_end:
        raise ObserveError(
            f"the machine that was logged in to is not this VM: its memory ends at page {end:#x}, "
            f"the VM's at {qemu.layout.pfn_end:#x}",
            hint="check the address after --ssh",
        )


def check_written(account: GuestAccount, guest: GuestFacts) -> None:
    """Raise `ObserveError` if the host lacks much of what a guest without a UUID has written."""
    if account.missing:
        raise ObserveError(
            f"the host lacks {format_size(account.missing)} of "
            f"{format_size(account.written)} that the guest (Linux {guest.release}) has certainly "
            "written: another VM's guest was logged in to, or this guest loses memory",
            hint="check the address; if it is right, give the VM a UUID (-uuid), by which an audit "
            "knows its guest",
        )


def _guest(facts: GuestFacts, account: GuestAccount | None) -> Guest:
    why = ""
    if account is None:
        locked = f" (kernel lockdown: {facts.lockdown})" if facts.lockdown else ""
        why = (
            "the guest's kernel has no readable /proc/kpageflags: CONFIG_PROC_PAGE_MONITOR is off"
            f"{locked}"
        )
    filled_by = next(filter(_FILLED.fullmatch, facts.cmdline.split()), "")
    return Guest(
        release=facts.release,
        reporting=facts.balloon.offered and facts.balloon.negotiated,
        driver=facts.balloon.driver,
        order=facts.balloon.page_reporting_order,
        pass_seconds=facts.balloon.pass_seconds,
        kernel_reports="yes" if facts.balloon.negotiated else facts.kernel_reports,
        # With init_on_free=1, the pattern is zeros, as in a discarded page (virtballoon_probe()).
        poisons=facts.balloon.features[_PAGE_POISON : _PAGE_POISON + 1] == "1"
        and not filled_by.startswith("init_on_free"),
        filled_by=filled_by,
        meminfo=facts.counters.meminfo,
        account=account,
        why_not=why,
    )
