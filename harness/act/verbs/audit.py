# SPDX-License-Identifier: Apache-2.0
"""Audit all guest memory: the guest's state of each page, and whether the host holds it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.act.awake import awake
from harness.act.guest import Guest
from harness.act.seen_pages import SeenPages
from harness.act.verbs.churn import Held
from harness.act.verbs.settle import Drained, wait_settled
from harness.guest.counter_stream import read_counters
from harness.guest.memory_blocks import offline_pages
from harness.kernel.losses import DiscardCoverage
from harness.kernel.pages import AuditReport, GuestState, StateArray
from harness.measure.usable import UNJUDGED_LIMIT, judged_share
from harness.observe.features import driver_is_bound
from harness.observe.page_audit import take_audit
from harness.record.audit_file import AuditFacts, AuditInputs, AuditReading, save_audit
from harness.record.events import Audited, DriverChanged
from harness.record.facts import DiscardTotals, GuestCounters, HostMapping
from harness.record.run_directory import audit_path
from harness.scenario.expectations import Expectations, unknown_names
from harness.scenario.fields import Name
from harness.scenario.steps import Situation, Verb
from harness.units import MIB, PAGE_SIZE, format_size
from harness.yamlfile import Loc

LATE_LOOKS = 3
"""The most looks of an audit: blocks that merge after a settle need another pass to be reported."""

LATE_SECONDS = 30.0

DRAINED_BYTES = 2 * MIB
"""Less may be the lag of the guest's counters (mm/vmstat.c) and what runs beside an audit: up to
2 MiB in 150 audits of guests at rest."""


LACKING_BYTES = 16 * MIB
"""Zones lack 0.1 % of a guest's RAM, which firmware reserves; a memory block is 128 MiB, but the
last one may be cut off."""


class Audit(Verb):
    """Compares guest and host state of every page, and keeps both in `audits/`."""

    verb: ClassVar[str] = "audit"
    name: Name = "audit"
    """Name of the audit; later expectations can refer to it if it is a plain word:
    `before.held_bytes`."""
    expect: Expectations = Field(default_factory=dict)
    """Conditions on measures at this audit: `{reported_resident_bytes: "== 0"}`."""

    @property
    def audit_name(self) -> str:
        """The name by which later expectations refer to it."""
        return self.name

    @property
    def checks(self) -> Mapping[str, str]:
        """Its expectations."""
        return self.expect

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Yield names in its expectations that nothing measures before it."""
        for measure, why in unknown_names(self.expect, before.measured, before.audits):
            yield ("expect", measure), why

    def after(self, before: Situation) -> Situation:
        """Add its name, to which later expectations can refer."""
        return replace(before, audits=before.audits | {self.name})

    def in_words(self) -> str:
        """Describe it by its name, without its expectations."""
        return f"audit *{self.name}*"

    def perform(self, guest: Guest) -> None:
        """Record a page audit, and save its pages so that it can be judged again.

        If the step before was a settle, and memory that it did not leave has become reportable
        since (on the host, or never discarded), it waits for another pass and looks again, because
        no pass may have had time for it. It looks again at once if too many pages have changed
        while it looked, as in the middle of a pass. It does not look again if a page seems lost.
        """
        left = guest.kept(Drained).remaining(guest)
        guest.phase("audit", self.name)
        look = _look(guest)
        for _again in range(LATE_LOOKS - 1):
            report = look.report
            if report.total.held_absent or report.lost_bytes or report.suspect_bytes:
                break
            if judged_share(report.total) < 1 - UNJUDGED_LIMIT and report.total.unstable:
                changed = format_size(report.total.unstable)
                guest.phase("audit", f"{self.name} again: {changed} changed meanwhile")
                look = _look(guest)
                continue
            late = _late(look, max(PAGE_SIZE << guest.reporting_order, DRAINED_BYTES))
            if left is None or late <= left:
                break
            guest.phase("settle", f"again: {format_size(late)} became reportable meanwhile")
            left = wait_settled(guest, LATE_SECONDS).left
            look = _look(guest)
        pages = guest.kept(SeenPages)
        guest_at = look.inputs.reading.guest_at
        pages.audited(look.seen, guest_at, guest.instruments.discards, look.mark)
        sha256 = save_audit(audit_path(guest.directory, pages.audits, self.name), look.inputs)
        if look.report.total.free_large_resident and driver_is_bound(guest.vm.shell) is False:
            # Not by the step `unbind`, which records it itself: a command may have done it.
            guest.record.add(DriverChanged(guest.record.now(), bound=False))
        guest.record.add(
            Audited(
                guest.record.now(),
                name=self.name,
                report=look.report,
                counters=look.counters,
                mapping=look.mapping,
                discards=look.discards,
                checks=tuple(f"{measure}: {text}" for measure, text in self.expect.items()),
                sha256=sha256,
                put_offline=look.put_offline,
            )
        )


@dataclass(frozen=True)
class _Look:
    """One reading of every page, with the counters that belong to it."""

    inputs: AuditInputs
    report: AuditReport
    seen: StateArray
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals | None
    mark: int
    """Mark in the discard log just before the reading."""
    put_offline: int


def _late(look: _Look, least: int) -> int:
    """Bytes that a pass may not have had time for.

    `least`: the fewest bytes drained meanwhile that are worth another pass. The guest's per-CPU
    lists drain whole blocks at once. Pages that were on them when the pages were read, and are free
    by the counters, which were read after, are in no cell of free pages.
    """
    cells = look.report.total
    free = sum(zone.free for zone in look.counters.zones) * PAGE_SIZE
    drained = free - cells.free - cells.reported - cells.unstable
    found = max(cells.free_large_resident, look.report.free_undiscarded or 0)
    return max(found, drained) if drained >= least else found


def _look(guest: Guest) -> _Look:
    instruments, tool, pages = guest.instruments, guest.kept(Held).tool, guest.kept(SeenPages)
    held_by = (tool.pid,) if tool is not None else ()
    log = instruments.discards
    with awake(guest.vm):
        mark = log.mark()
        reading, (mapping, discards) = take_audit(
            guest.vm.shell,
            instruments.residency,
            # In this order: what the host was seen to have lost has its discard.
            lambda: (instruments.mapping.read(), log.read()),
            held_by,
        )
        # Once more, for the discards of blocks reported while the guest was read the second time.
        log.read()
        counters = read_counters(guest.vm.shell)
        reading, put_offline = _without_offline(guest, reading, counters)
    # With MADV_FREE the host may reclaim a page long after its discard, so all discards count.
    earlier = 0 if guest.vm.spec.discard == "free" else pages.mark_in(log)
    inputs = AuditInputs(
        reading=reading,
        seen=pages.seen,
        discards=None
        if log.untraced
        else DiscardCoverage(
            ever=log.covered,
            since_earlier=log.covered_since(earlier),
            during=log.covered_since(mark),
        ),
        facts=AuditFacts(
            at=guest.record.now(),
            zones=counters.zones,
            reporting_order=guest.reporting_order,
            moved=pages.moved,
            pieces=instruments.layout.pieces,
            held_by=held_by,
            discard_log=os.path.relpath(log.path, guest.directory),
            passes_since_earlier=pages.passes_until(reading.guest_at, guest.pass_seconds),
        ),
    )
    report, seen = inputs.reduce()
    return _Look(inputs, report, seen, counters, mapping, discards, mark, put_offline)


def _without_offline(
    guest: Guest, reading: AuditReading, counters: GuestCounters
) -> tuple[AuditReading, int]:
    """Take what the guest has put offline out of its list of pages; also return its bytes.

    It is asked only where its zones lack so much that a memory block may be offline.
    """
    pieces = guest.instruments.layout.pieces
    given = sum(piece.pfn_end - piece.pfn_start for piece in pieces) * PAGE_SIZE
    if given - sum(zone.present for zone in counters.zones) * PAGE_SIZE < LACKING_BYTES:
        return reading, 0
    offline = offline_pages(guest.vm.shell, len(reading.before))
    if not offline.any():
        return reading, 0
    none = np.uint8(GuestState.NO_PAGE)
    size = sum(np.count_nonzero(offline[piece.pfn_start : piece.pfn_end]) for piece in pieces)
    before, after = (np.where(offline, none, seen) for seen in (reading.before, reading.after))
    return replace(reading, before=before, after=after), int(size) * PAGE_SIZE
