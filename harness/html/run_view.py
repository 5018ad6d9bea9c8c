# SPDX-License-Identifier: Apache-2.0
"""Compute what the page shows of one run, from its record and the files of its audits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from harness.errors import ObserveError, RecordError
from harness.html.memory_map import Kind, MemoryMap, draw_map
from harness.html.timeline import Timeline, draw_timeline
from harness.kernel.pages import AuditReport, CellTotals
from harness.record.audit_file import load_audit
from harness.record.events import (
    Audited,
    ChurnFreed,
    ConsoleFinding,
    Event,
    GuestReady,
    NoiseRead,
    Pictured,
)
from harness.record.facts import HostNoise
from harness.record.recorded_run import RecordedRun
from harness.record.run_directory import PICTURE_NUMBER, audit_path
from harness.record.told_findings import told_findings
from harness.report.expected import Expected, run_expectations
from harness.report.summary import RunSummary, build_summary
from harness.units import PAGE_SIZE, format_size
from harness.verdict.expressions import format_measure

REPORTED = "reported since the peak"

MOST_FINDING_LINES = 40
"""Lines shown of a console finding; console.log has the rest."""

_LEDGERS = (
    ("freed_bytes", "the guest freed"),
    ("reclaimable_bytes", "of it in blocks that can be reported"),
    (REPORTED, "the guest reported"),
    ("discarded_bytes", "QEMU discarded"),
    ("reclaimed_bytes", "the host got back"),
)
_SHOWN_CELLS = {
    "used_resident": "used",
    "free_small_resident": "free, below order or watermark",
    "free_large_resident": "free, not reported",
    "free_new_resident": "free for less than two passes",
    "reported_absent": "reported, given back",
    "reported_resident": "reported, still held",
    "held_absent": "held, lost",
    "offline_resident": "offline, still held",
    "offline_absent": "offline, given back",
}


@dataclass(frozen=True)
class Bar:
    label: str
    size: str
    share: float
    """Length relative to the longest bar, 0 to 1."""


@dataclass(frozen=True)
class Table:
    """Sizes by place or order."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class AuditView:
    """One audit."""

    name: str
    at: str
    shown: bool
    """Whether its map is open: those of the first, the last and the peak are."""
    map: MemoryMap | None
    trouble: str
    """Why there is no map; empty if there is one."""
    zones: Table
    orders: Table


@dataclass(frozen=True)
class RunView:
    """One run."""

    summary: RunSummary
    results: str
    """The results directory."""
    title: str
    about: str
    facts: tuple[tuple[str, str], ...]
    timeline: Timeline | None
    ledgers: tuple[Bar, ...]
    audits: tuple[AuditView, ...]
    expected: tuple[Expected, ...]
    measures: tuple[tuple[str, str], ...]
    findings: tuple[tuple[ConsoleFinding, str], ...]
    """Console findings, each with the excerpt that is shown."""
    noise: tuple[tuple[str, str], ...]
    repro: str
    """Path of its repro.sh; empty if it has none."""

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of pages in any of its maps."""
        return set().union(*(audit.map.kinds for audit in self.audits if audit.map))


def view_run(run: RecordedRun) -> RunView:
    """Compute everything that the page shows of a run. An audit that cannot be read has no map."""
    events = (*run.events, run.judged) if run.judged is not None else run.events
    [summary] = build_summary([(run.run_id, event) for event in events]).runs
    scenario: Mapping[str, object] = run.started.plan.scenario if run.started.plan else {}
    return RunView(
        summary=summary,
        results=str(run.directory.parent),
        title=str(scenario.get("title", "")),
        about=str(scenario.get("about", "")).strip(),
        facts=tuple(_facts(run, summary)),
        timeline=draw_timeline(run.events),
        ledgers=_ledgers(summary.measures, run.events),
        audits=tuple(_audits(run)),
        expected=tuple(run_expectations(run, summary)),
        measures=tuple((n, format_measure(n, v)) for n, v in sorted(summary.measures.items())),
        findings=tuple(
            (event, "\n".join(event.text.splitlines()[:MOST_FINDING_LINES]))
            for event in told_findings(run.events)
        ),
        noise=tuple(_noise([e.noise for e in run.events if isinstance(e, NoiseRead)])),
        repro=str(repro) if (repro := run.directory / "repro.sh").exists() else "",
    )


def _facts(run: RecordedRun, summary: RunSummary) -> Iterator[tuple[str, str]]:
    ready = next((event for event in run.events if isinstance(event, GuestReady)), None)
    if ready is not None:
        yield "kernel", f"{ready.kernel} {ready.build}".strip()
        yield "memory", format_size(ready.memory)
        yield "reporting order", str(ready.page_reporting_order)
        yield "free page reporting", _negotiation(ready)
    yield "image", run.started.image
    yield "QEMU", f"{summary.qemu or 'unknown'}, accelerator {summary.accel or 'unknown'}"
    plan = run.started.plan
    if plan is not None and plan.overrides:
        yield "set", ", ".join(plan.overrides)
    yield "host", ", ".join(f"{name} {value}" for name, value in run.started.host.items())
    yield "began", run.started.wall
    yield "took", f"{summary.seconds:.1f} s"
    if summary.quarantine is not None:
        yield "quarantine", str(summary.quarantine)
    if run.started.attempt > 1:
        yield "attempt", str(run.started.attempt)


def _negotiation(ready: GuestReady) -> str:
    if not ready.offered:
        return "not offered by the device"
    return "negotiated" if ready.negotiated else "offered, not accepted by the driver"


def _ledgers(measures: Mapping[str, float], events: Sequence[Event]) -> tuple[Bar, ...]:
    """Return the ledgers since the latest free; empty without one."""
    if not any(isinstance(event, ChurnFreed) for event in events):
        return ()
    sizes = {**measures, **_reported_since_peak(events)}
    taken = [(label, sizes[name]) for name, label in _LEDGERS if name in sizes]
    longest = max((value for _label, value in taken), default=0)
    if longest <= 0:
        return ()
    return tuple(
        Bar(label, format_size(round(value)), max(0.0, value / longest)) for label, value in taken
    )


def _reported_since_peak(events: Sequence[Event]) -> dict[str, float]:
    """Return what more was reported at the last audit than at the peak.

    Empty unless the only free lies between the two.
    """
    told = [event for event in events if isinstance(event, Audited | Pictured | ChurnFreed)]
    kinds = [type(event) for event in told]
    if kinds.count(ChurnFreed) != 1 or Pictured not in kinds:
        return {}
    peak, last = told[kinds.index(Pictured)], told[-1]
    freed = kinds.index(ChurnFreed)
    if not isinstance(peak, Pictured) or not isinstance(last, Audited):
        return {}
    if kinds.index(Pictured) > freed:
        return {}
    return {REPORTED: float(last.report.total.reported - peak.report.total.reported)}


def _audits(run: RecordedRun) -> Iterator[AuditView]:
    """Yield the audits and the picture at the peak, in the order in which they were taken."""
    audits = [event for event in run.events if isinstance(event, Audited)]
    numbers = {id(event): number for number, event in enumerate(audits, 1)}
    for event in run.events:
        if not isinstance(event, Audited | Pictured):
            continue
        number = numbers.get(id(event), PICTURE_NUMBER)
        drawn, trouble = None, ""
        try:
            inputs = load_audit(audit_path(run.directory, number, event.name), event.sha256)
            drawn = draw_map(inputs, (*event.report.lost_pfns, *event.report.held_absent_pfns))
        except (ObserveError, RecordError) as error:
            trouble = error.message
        yield AuditView(
            name=event.name,
            at=f"{event.report.at:.1f} s",
            shown=number in (PICTURE_NUMBER, 1, len(audits)),
            map=drawn,
            trouble=trouble,
            zones=_zone_table(event.report),
            orders=_order_table(event.report),
        )


def _zone_table(report: AuditReport) -> Table:
    """Make a table with a row for each zone and a column for each cell that is not always empty."""
    places = {**report.per_zone, "all": report.total}
    cells = [
        cell.name
        for cell in fields(CellTotals)
        if cell.name in _SHOWN_CELLS and any(getattr(row, cell.name) for row in places.values())
    ]
    return Table(
        ("zone", *(_SHOWN_CELLS[name] for name in cells)),
        tuple(
            (place, *(_size(getattr(row, name)) for name in cells)) for place, row in places.items()
        ),
    )


def _order_table(report: AuditReport) -> Table:
    """Make a table with a row for each order of free blocks."""
    orders = sorted({*report.reported_by_order, *report.free_by_order}, reverse=True)
    rows = [
        (
            str(order),
            format_size(PAGE_SIZE << order),
            _size(report.reported_by_order.get(order, 0)),
            _size(report.free_by_order.get(order, 0)),
        )
        for order in orders
    ]
    return Table(("order", "block", "reported", "free, not reported"), tuple(rows))


def _size(size: int | None) -> str:
    if size is None:
        return "not measured"
    return format_size(size) if size else "-"


def _noise(readings: Sequence[HostNoise]) -> Iterator[tuple[str, str]]:
    """Yield what the rest of the host did between the first and the last reading."""
    if len(readings) < 2:
        return
    first, last = readings[0], readings[-1]
    for name, label in (
        ("pswpin", "pages swapped in"),
        ("pswpout", "pages swapped out"),
        ("pgsteal_kswapd", "pages reclaimed by kswapd"),
        ("lazyfreed", "lazily free pages taken"),
        ("thp_collapse", "huge pages collapsed by khugepaged"),
    ):
        before, after = getattr(first, name), getattr(last, name)
        yield label, "not measured" if before is None or after is None else str(after - before)
    yield "least MemAvailable", format_size(min(reading.mem_available for reading in readings))
