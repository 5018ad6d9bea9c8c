# SPDX-License-Identifier: Apache-2.0
"""Compute the timeline of a run: what guest and host held at each sample, and QEMU's discards.

It computes the coordinates of a drawing, and does not know about SVG.
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
    Sample,
)
from harness.units import format_size

WIDTH, HEIGHT = 960.0, 240.0
"""Width and height of the plot, in units of the drawing."""

STRIP = 48.0
"""Height of the strip below the plot with the discards of each interval."""

MOST_POINTS = 1200
"""The most points of a curve; a longer run is thinned out."""

_TICKS = 8


@dataclass(frozen=True)
class Curve:
    """A quantity over time."""

    name: str
    """Also the class of its line in the drawing."""
    label: str
    points: str
    """`x,y x,y ...` for a polyline, without samples that lack the quantity."""


@dataclass(frozen=True)
class Band:
    """A phase of the run."""

    x: float
    width: float
    label: str
    detail: str
    shaded: bool


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """The coordinates of the drawing."""

    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]
    audits: tuple[Tick, ...]
    seconds: tuple[Tick, ...]
    sizes: tuple[Tick, ...]
    discards: str
    """An SVG path in the strip; empty without QEMU's trace."""
    most_discarded: str
    """The amount that the height of the strip stands for."""


_CURVES = (
    ("guest-used", "used by the guest"),
    ("held", "held by the host"),
    ("lazyfree", "of it lazily free"),
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
            None if memory is None or s.guest_free is None else memory - s.guest_free
            for s in samples
        ],
        "held": [sample.held for sample in samples],
        "lazyfree": [sample.lazyfree or None for sample in samples],
    }
    highest = max([memory or 0] + [v for row in values.values() for v in row if v is not None])
    top = float(max(highest, 1))
    times = [sample.t for sample in samples]
    step = -(-len(samples) // MOST_POINTS)
    curves = tuple(
        Curve(name, label, _points(times[::step], values[name][::step], end, top))
        for name, label in _CURVES
        if any(value is not None for value in values[name])
    )
    predicted = _predicted(events, end, top)
    if predicted:
        curves += (Curve("predicted", "expected with one free list", predicted),)
    path, most = _discards(samples[::step], end)
    return Timeline(
        curves=curves,
        bands=tuple(_bands(events, end)),
        audits=tuple(
            Tick(_x(event.report.at, end), event.name)
            for event in events
            if isinstance(event, Audited)
        ),
        seconds=tuple(
            Tick(_x(at, end), f"{at:g} s") for at in _multiples(_step(end / _TICKS), end)
        ),
        sizes=tuple(
            Tick(_y(size, top), format_size(round(size)))
            for size in (top / 4 * n for n in range(5))
        ),
        discards=path,
        most_discarded=most,
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
    """Draw bars for what was discarded between each sample and the previous one."""
    known = [(s.t, s.discarded) for s in samples if s.discarded is not None]
    grown = [
        (before_at, at, max(0, size - before))
        for (before_at, before), (at, size) in itertools.pairwise(known)
    ]
    most = max((size for _before, _at, size in grown), default=0)
    if not most:
        return "", ""
    bars = [
        f"M{_x(before_at, end):.1f} {STRIP:g}V{STRIP - STRIP * size / most:.1f}"
        f"H{max(_x(at, end), _x(before_at, end) + 1):.1f}V{STRIP:g}z"
        for before_at, at, size in grown
        if size
    ]
    return "".join(bars), format_size(most)


def _bands(events: Iterable[Event], end: float) -> Iterable[Band]:
    """Return the phases as bands; consecutive phases of the same name are one band."""
    phases: list[PhaseStarted] = []
    for event in events:
        if isinstance(event, PhaseStarted) and (not phases or event.phase != phases[-1].phase):
            phases.append(event)
    ends = [*(phase.t for phase in phases[1:]), end]
    for number, (phase, until) in enumerate(zip(phases, ends, strict=False)):
        x = _x(phase.t, end)
        yield Band(x, _x(until, end) - x, phase.phase, phase.detail, number % 2 == 1)


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
