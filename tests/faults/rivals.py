# SPDX-License-Identifier: Apache-2.0
"""What published checks of free page reporting would have said of a recorded run.

Each looks at one number, the RSS of the guest's memory, after the latest free by the churn tool
(their `hog`). They are stated as published and scaled to the guest where they name a fixed size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.record.events import ChurnFreed, ChurnHeld, DriverChanged, Event, GuestReady, Sample
from harness.units import MIB, format_size

FIRECRACKER_FALL, FIRECRACKER_GUEST = 10_000_000, 256 * MIB
CLOUD_HYPERVISOR_SECONDS = 120.0
TP_QEMU_TOLERANCE, TP_QEMU_SECONDS = 0.10, 30.0
TP_LIBVIRT_SHARE, TP_LIBVIRT_DRIFT, TP_LIBVIRT_GUEST = 0.80, 50 * MIB, 1024 * MIB

RULES = {
    "Firecracker": "RSS falls by at least 10 MB in a guest of 256 MiB, scaled to the guest",
    "cloud-hypervisor": "RSS is below half of the guest's memory within 120 s",
    "tp-qemu": "RES is within 10 % of what it was before the hog within 30 s, in both directions",
    "tp-libvirt": "RSS falls by at least 80 % of the hog; with reporting off it changes by at most "
    "50 MiB in a guest of 1 GiB, scaled to the guest",
}
"""By name: Firecracker's and cloud-hypervisor's integration tests, tp-qemu's `balloon_free`,
tp-libvirt's `memory_balloon` free page reporting test."""


@dataclass(frozen=True)
class RivalVerdict:
    """What one of them would have said; None: the record has nothing it could look at."""

    rival: str
    passed: bool | None
    seen: str


@dataclass(frozen=True)
class _Window:
    """RSS as they would have sampled it."""

    memory: int
    hog: int
    peak: int
    """Just before the free."""
    baseline: int | None
    """Before the hog began."""
    after: tuple[tuple[float, int], ...]
    """(seconds since the free, RSS)."""
    reporting: bool


def rival_verdicts(events: Sequence[Event]) -> list[RivalVerdict]:
    """What each of `RULES` would have said of the latest round."""
    window = _window(events)
    if window is None or not window.after:
        why = "nothing was freed" if window is None else "no sample after the free"
        return [RivalVerdict(name, None, why) for name in RULES]
    return [
        _firecracker(window),
        _cloud_hypervisor(window),
        _tp_qemu(window),
        _tp_libvirt(window),
    ]


def _window(events: Sequence[Event]) -> _Window | None:
    ready = next((event for event in events if isinstance(event, GuestReady)), None)
    frees = [index for index, event in enumerate(events) if isinstance(event, ChurnFreed)]
    if ready is None or not frees:
        return None
    start = frees[-1]
    freed = events[start]
    assert isinstance(freed, ChurnFreed)
    fills = [index for index, event in enumerate(events[:start]) if isinstance(event, ChurnHeld)]
    # `ChurnHeld` is recorded when the fill has ended; it took so many seconds.
    held = events[fills[-1]] if fills else None
    begin = held.t - held.seconds if isinstance(held, ChurnHeld) else freed.t
    earlier = [e.rss for e in events[:start] if isinstance(e, Sample) and e.t < begin and e.rss]
    bound = [event.bound for event in events[:start] if isinstance(event, DriverChanged)]
    later = (i for i, event in enumerate(events) if i > start and isinstance(event, ChurnHeld))
    end = next(later, len(events))
    return _Window(
        memory=ready.memory,
        hog=freed.bytes,
        peak=freed.before.rss,
        baseline=earlier[-1] if earlier else None,
        after=tuple(
            (event.t - freed.t, event.rss)
            for event in events[start:end]
            if isinstance(event, Sample) and event.rss is not None
        ),
        reporting=ready.negotiated and (not bound or bound[-1]),
    )


def _firecracker(window: _Window) -> RivalVerdict:
    fall = window.peak - window.after[-1][1]
    wanted = FIRECRACKER_FALL * window.memory // FIRECRACKER_GUEST
    return RivalVerdict("Firecracker", fall >= wanted, _fell(fall, wanted))


def _cloud_hypervisor(window: _Window) -> RivalVerdict:
    least = min((rss for at, rss in window.after if at <= CLOUD_HYPERVISOR_SECONDS), default=None)
    seen = "no sample in time" if least is None else f"lowest RSS {format_size(least)}"
    passed = None if least is None else least < window.memory / 2
    return RivalVerdict("cloud-hypervisor", passed, seen)


def _tp_qemu(window: _Window) -> RivalVerdict:
    if window.baseline is None:
        return RivalVerdict("tp-qemu", None, "no sample before the hog")
    limit = TP_QEMU_TOLERANCE * window.baseline
    timely = [rss for at, rss in window.after if at <= TP_QEMU_SECONDS]
    if not timely:
        return RivalVerdict("tp-qemu", None, "no sample in time")
    nearest = min(timely, key=lambda rss: abs(rss - window.baseline if window.baseline else rss))
    off = abs(nearest - window.baseline)
    seen = f"{format_size(off)} off a baseline of {format_size(window.baseline)}"
    return RivalVerdict("tp-qemu", off <= limit, seen)


def _tp_libvirt(window: _Window) -> RivalVerdict:
    fall = window.peak - window.after[-1][1]
    if window.reporting:
        wanted = round(TP_LIBVIRT_SHARE * window.hog)
        return RivalVerdict("tp-libvirt", fall >= wanted, _fell(fall, wanted))
    drift = TP_LIBVIRT_DRIFT * window.memory // TP_LIBVIRT_GUEST
    seen = f"RSS changed by {format_size(abs(fall))}; at most {format_size(drift)} is allowed"
    return RivalVerdict("tp-libvirt", abs(fall) <= drift, seen)


def _fell(fall: int, wanted: int) -> str:
    direction = "fell" if fall >= 0 else "rose"
    return f"RSS {direction} by {format_size(abs(fall))}; {format_size(wanted)} is wanted"
