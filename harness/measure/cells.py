# SPDX-License-Identifier: Apache-2.0
"""Measures of the cells of the oracle's table: the guest's state of its pages against the host's.

They come from the latest audit, if it is current and usable (`harness.measure.usable`).
"""

from collections.abc import Callable

from harness.measure.retention import percpu_free
from harness.measure.terms import Means, Measure, Rule, TakenBy, Unit, not_as_written, overhead
from harness.measure.usable import of_report
from harness.record.events import Audited
from harness.record.facts import DiscardTotals
from harness.record.history import History

_SHORTFALL, _CAME_BACK = Means(Rule.SHORTFALL), Means(Rule.CAME_BACK)


def _current(pick: Callable[[Audited], float | None]) -> Callable[[History], float | None]:
    """Compute from the current audit, even if it could judge too few of the guest's pages."""
    return lambda history: None if history.audit is None else pick(history.audit)


def _discards(pick: Callable[[DiscardTotals], float]) -> Callable[[History], float | None]:
    def compute(history: History) -> float | None:
        totals = history.discards_since_free
        return None if totals is None else pick(totals)

    return compute


def _quiet_discarded(history: History) -> int | None:
    """Between the latest two audits, where nothing else happened to memory."""
    if history.audit is None or len(history.at_audits) < 2:
        return None
    then, now = history.at_audits[-2].audits[-1].discards, history.audit.discards
    if _happened(history.at_audits[-2]) != _happened(history) or then is None or now is None:
        return None
    return now.since(then).bytes


def _happened(history: History) -> tuple[int, ...]:
    moves = (history.fills, history.rounds, history.busy, history.races, history.plugs)
    return tuple(len(each) for each in (*moves, history.moves, history.sleeps, history.orders))


MEASURES = (
    Measure(
        name="reported_bytes",
        unit=Unit.BYTES,
        meaning="bytes in blocks that the guest has reported and not allocated since",
        taken_by=TakenBy.AUDIT,
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=of_report(
            lambda report: report.total.reported_resident + report.total.reported_absent
        ),
    ),
    Measure(
        name="discarded_bytes",
        unit=Unit.BYTES,
        meaning="bytes that QEMU discarded since the latest free, or since launch without one",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=_SHORTFALL,
        means_when_high=_CAME_BACK,
        compute=_discards(lambda totals: totals.bytes),
    ),
    Measure(
        name="quiet_discarded_bytes",
        unit=Unit.BYTES,
        meaning="bytes QEMU discarded between the latest two audits, if the run did nothing to "
        "memory between them",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=Means(Rule.NOT_REPORTED, "a quiet guest reported less than expected"),
        means_when_high=overhead(
            "a guest that was left alone went on reporting memory it had reported already"
        ),
        compute=_quiet_discarded,
    ),
    Measure(
        name="failed_discard_bytes",
        unit=Unit.BYTES,
        meaning="bytes that QEMU failed to discard since the latest free, or since launch without "
        "one",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=_CAME_BACK,
        means_when_high=Means(Rule.DISCARD_FAILED),
        compute=_discards(lambda totals: totals.failed_bytes),
    ),
    Measure(
        name="reported_resident_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the guest has reported and the host still holds",
        taken_by=TakenBy.AUDIT,
        means_when_low=_CAME_BACK,
        means_when_high=Means(Rule.REPORTED_RESIDENT),
        compute=of_report(lambda report: report.total.reported_resident),
    ),
    Measure(
        name="unreported_free_bytes",
        unit=Unit.BYTES,
        meaning="bytes that are free in blocks of at least the reporting order, in zones above "
        "their watermark, not reported, and still held by the host; without what was not yet free "
        "at an audit less than two passes before",
        taken_by=TakenBy.AUDIT,
        means_when_low=_CAME_BACK,
        means_when_high=Means(Rule.UNREPORTED),
        compute=of_report(lambda report: report.total.free_large_resident),
    ),
    Measure(
        name="never_reported_bytes",
        unit=Unit.BYTES,
        meaning="bytes free in blocks of at least the order, in zones above their watermark, not "
        "reported, and never discarded since launch, held by the host or not",
        taken_by=TakenBy.TRACED_AUDIT,
        means_when_low=_CAME_BACK,
        means_when_high=Means(
            Rule.NOT_REPORTED,
            "blocks that the guest can report were never reported since it booted",
        ),
        compute=of_report(lambda report: report.free_undiscarded),
    ),
    Measure(
        name="retained_free_bytes",
        unit=Unit.BYTES,
        meaning="bytes that are free in blocks below the reporting order or in zones below their "
        "watermark, and held by the host",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written(
            "the guest retains less free memory than the scenario sets up"
        ),
        means_when_high=Means(Rule.RETAINED),
        compute=of_report(lambda report: report.total.free_small_resident),
    ),
    Measure(
        name="balloon_resident_bytes",
        unit=Unit.BYTES,
        meaning="bytes in the balloon, or plugged and not in use, that the host still holds",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written(
            "the host holds less of the balloon's memory than the scenario sets up"
        ),
        means_when_high=Means(Rule.IN_BALLOON),
        compute=of_report(lambda report: report.total.offline_resident),
    ),
    Measure(
        name="percpu_free_bytes",
        unit=Unit.BYTES,
        meaning="bytes that are free on the guest's per-CPU lists, from which nothing is reported: "
        "for each CPU and zone up to `high` pages of zoneinfo, since 5.14 including huge pages",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written(
            "the guest's per-CPU lists hold less than the scenario sets up"
        ),
        means_when_high=Means(Rule.RETAINED),
        compute=_current(lambda audit: percpu_free(audit.counters.zones)),
    ),
    Measure(
        name="unjudged_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the latest audit could not judge, because their pages changed during "
        "the audit or have no host state",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written("the guest is less busy than the scenario expects"),
        means_when_high=Means(Rule.BLIND),
        compute=_current(lambda audit: audit.report.total.unstable + audit.report.total.unknown),
    ),
    Measure(
        name="guest_free_bytes",
        unit=Unit.BYTES,
        meaning="MemFree in the guest's /proc/meminfo at the latest audit",
        taken_by=TakenBy.AUDIT,
        means_when_low=Means(Rule.RETAINED),
        means_when_high=not_as_written("the guest has more free memory than the scenario sets up"),
        compute=_current(lambda audit: audit.counters.meminfo.get("MemFree")),
    ),
)
