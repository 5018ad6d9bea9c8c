# SPDX-License-Identifier: Apache-2.0
"""Compute the timeline of a run: what guest and host held at each sample, and QEMU's discards.

Curves have coordinates of a drawing of `WIDTH` x `HEIGHT`, which is stretched to the window's
width; what must not be stretched (text, marks) has its place as a part of the width and height.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.kernel.zones import MAX_ORDER, block_size, blocks_per_pass
from harness.record.events import (
    Audited,
    ChurnFreed,
    Event,
    GuestReady,
    PhaseStarted,
    Pictured,
    Sample,
)
from harness.units import format_size

WIDTH, HEIGHT = 960.0, 240.0
"""Width and height of the plot, in units of the drawing."""

STRIP = 48.0
"""Height of the strip below the plot with what QEMU has discarded."""

MOST_POINTS = 1200
"""The most points of a curve; a longer run is thinned out."""

_TICKS = 8

LETTER, PADDING = 7.2, 8.0
"""Width of a letter of a label, and of the space around one, in pixels."""

NARROW, WIDE = 260.0, 900.0
"""Width of the plot on a phone and on a large window, in pixels."""


@dataclass(frozen=True)
class Curve:
    """A quantity over time."""

    name: str
    """Also the class of its line in the drawing."""
    label: str
    points: str
    """`x,y x,y ...` for a polyline, without samples that lack the quantity."""
    style: str = "line"
    """`line`; `area`, which is filled down to the axis; or `dots`, for readings far apart."""

    @property
    def area(self) -> str:
        """The points of a polygon down to the axis."""
        first, last = (self.points.split()[end].split(",")[0] for end in (0, -1))
        return f"{first},{HEIGHT:g} {self.points} {last},{HEIGHT:g}"

    @property
    def dots(self) -> str:
        """The points as an SVG path of dots."""
        return "".join(f"M{point}h0" for point in self.points.split())


@dataclass(frozen=True)
class Band:
    """A phase of the run; places as parts of the whole width."""

    left: float
    width: float
    label: str
    detail: str
    shaded: bool

    @property
    def room(self) -> str:
        """Where its label has room: `narrow` (everywhere), `wide` windows, or `none`."""
        needed = LETTER * len(self.label) + PADDING
        if self.width * NARROW > needed:
            return "narrow"
        return "wide" if self.width * WIDE > needed else "none"


@dataclass(frozen=True)
class Tick:
    """A label at a part of the width or height."""

    at: float
    label: str


@dataclass(frozen=True)
class AuditMark:
    """What an audit counted."""

    left: float
    top: float
    """Place of what was reported."""
    text: str


@dataclass(frozen=True)
class Timeline:
    """The contents of the drawing."""

    end: float
    """Seconds that the whole width stands for."""
    top: float
    """Bytes that the whole height stands for."""
    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]
    audits: tuple[AuditMark, ...]
    seconds: tuple[Tick, ...]
    sizes: tuple[Tick, ...]
    discards: str
    """Points of a staircase in the strip; empty without QEMU's trace, or if it has no discards."""
    discarded: str
    """The amount that the height of the strip stands for."""


_CURVES = (
    ("guest-used", "used by the guest, the rest is free", "area"),
    ("held", "held by the host", "line"),
    ("huge", "of it in huge pages", "dots"),
    ("lazyfree", "of it lazily free", "dots"),
)


def draw_timeline(events: Sequence[Event]) -> Timeline | None:
    """Lay out a run's samples; None if there are fewer than two."""
    samples = [event for event in events if isinstance(event, Sample)]
    memory = next((event.memory for event in events if isinstance(event, GuestReady)), None)
    if len(samples) < 2:
        return None
    end = max(event.t for event in events)
    values = {
        "guest-used": [
            None if memory is None or s.guest_free is None else max(0, memory - s.guest_free)
            for s in samples
        ],
        "held": [sample.held for sample in samples],
        "huge": _unless_empty([sample.huge for sample in samples]),
        "lazyfree": _unless_empty([sample.lazyfree for sample in samples]),
    }
    highest = max([memory or 0] + [v for row in values.values() for v in row if v is not None])
    top = float(max(highest, 1))
    times = [sample.t for sample in samples]
    step = -(-len(samples) // MOST_POINTS)
    curves = [
        Curve(name, label, _points(times[::step], values[name][::step], end, top), style)
        for name, label, style in _CURVES
        if any(value is not None for value in values[name][::step])
    ]
    predicted = _predicted(events, end, top)
    if predicted:
        curves.insert(
            0, Curve("predicted", "expected of one free list, pass by pass", predicted, "area")
        )
    discards, discarded = _discards(samples[::step], end)
    return Timeline(
        end=end,
        top=top,
        curves=tuple(curves),
        bands=tuple(_bands(events, end)),
        audits=tuple(
            _mark(event, end, top) for event in events if isinstance(event, Audited | Pictured)
        ),
        seconds=tuple(
            Tick(_part(at, end), f"{at:g} s") for at in _multiples(_step(end / _TICKS), end)
        ),
        sizes=tuple(
            Tick(1 - part, format_size(round(part * top))) for part in (0.0, 0.25, 0.5, 0.75, 1.0)
        ),
        discards=discards,
        discarded=discarded,
    )


def _unless_empty(values: list[int | None]) -> list[int | None]:
    """Leave out a quantity that was never there."""
    return values if any(values) else [None] * len(values)


def _mark(event: Audited | Pictured, end: float, top: float) -> AuditMark:
    cells = event.report.total
    used = cells.used_resident + cells.used_absent
    sizes = ((used, "used"), (cells.free, "free"), (cells.reported, "reported"))
    said = ", ".join(f"{format_size(size)} {word}" for size, word in sizes)
    return AuditMark(
        left=_part(event.report.at, end),
        top=1 - min(1.0, cells.reported / top),
        text=f"{event.name}: {said}",
    )


def _points(times: Sequence[float], values: Sequence[int | None], end: float, top: float) -> str:
    return " ".join(
        f"{_x(at, end):.1f},{_y(value, top):.1f}"
        for at, value in zip(times, values, strict=True)
        if value is not None
    )


def _predicted(events: Sequence[Event], end: float, top: float) -> str:
    """Predict how the held bytes fall after the latest free; empty without a free or reporting.

    The prediction assumes that all freed memory is in blocks of MAX_ORDER on one free list. With
    several lists, as in most guests, memory comes back faster.
    """
    ready = next((event for event in events if isinstance(event, GuestReady)), None)
    freed = next((event for event in reversed(events) if isinstance(event, ChurnFreed)), None)
    if ready is None or not ready.negotiated or freed is None:
        return ""
    block = block_size(MAX_ORDER)
    blocks = freed.bytes // block
    waiting, held = blocks, freed.before.held
    free = blocks + sum(zone.free_blocks[MAX_ORDER] for zone in freed.zones_before)
    at, times, sizes = freed.t, [freed.t], [held]
    while waiting > 0 and at < end:
        at += ready.pass_seconds
        times += [at, at]
        sizes += [held, held - block * min(waiting, blocks_per_pass(free))]
        waiting, held = waiting - blocks_per_pass(free), sizes[-1]
    times, sizes = [*times, max(end, at)], [*sizes, held]
    shown = [(min(t, end), max(0, size)) for t, size in zip(times, sizes, strict=True)]
    return _points([t for t, _size in shown], [size for _t, size in shown], end, top)


def _discards(samples: Sequence[Sample], end: float) -> tuple[str, str]:
    """Draw the sum of what was discarded as a staircase, and say how much it comes to.

    A count that falls began anew, as with the log of another QEMU.
    """
    known = [(s.t, s.discarded) for s in samples if s.discarded is not None]
    total, sums = 0, [(0.0, 0)]
    for (_at, before), (at, size) in itertools.pairwise([(0.0, 0), *known]):
        total += size - before if size >= before else size
        sums.append((at, total))
    if not total:
        return "", ""
    steps = [
        f"{_x(at, end):.1f},{STRIP * (1 - height / total):.1f}"
        for (_before, lower), (at, size) in itertools.pairwise(sums)
        for height in ((lower, size) if size != lower else ())
    ]
    first, last = f"0.0,{STRIP:.1f}", f"{WIDTH:.1f},0.0"
    return " ".join([first, *steps, last]), format_size(total)


def _bands(events: Iterable[Event], end: float) -> Iterable[Band]:
    """Return the phases as bands; consecutive phases of the same name are one band."""
    phases: list[PhaseStarted] = []
    for event in events:
        if isinstance(event, PhaseStarted) and (not phases or event.phase != phases[-1].phase):
            phases.append(event)
    ends = [*(phase.t for phase in phases[1:]), end]
    for number, (phase, until) in enumerate(zip(phases, ends, strict=False)):
        left = _part(phase.t, end)
        width = max(0.0, _part(until, end) - left)
        yield Band(left, width, phase.phase, phase.detail, number % 2 == 1)


def _part(at: float, end: float) -> float:
    return min(1.0, max(0.0, at / end)) if end else 0.0


def _x(at: float, end: float) -> float:
    return WIDTH * at / end if end else 0.0


def _y(size: float, top: float) -> float:
    return HEIGHT * (1 - size / top)


def _step(rough: float) -> float:
    """Round up to one of 1, 2, 5, 10, 20 ... seconds."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _multiples(step: float, end: float) -> list[float]:
    return [n * step for n in range(int(end / step) + 1)]
