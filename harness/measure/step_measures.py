# SPDX-License-Identifier: Apache-2.0
"""Measures that steps take: sleeps, plugs, page fault rates, crowds, and numbers of their own."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from harness.record.events import (
    Ballooned,
    BusyEnded,
    ChurnFreed,
    CrowdFull,
    CrowdGrew,
    DevicePlugged,
    Event,
    FaultRate,
    GuestMoved,
    Measured,
    OrderRead,
    Settled,
    Suspended,
)

STEP_MEASURES: dict[str, str] = {
    "sleeps": "how many times the guest was suspended and came back",
    "unslept": "how many of those times nothing confirms that it slept",
    "slowest_sleep_seconds": "the longest of them, from the order to the answer",
    "plugged_bytes": "bytes of memory plugged beside the guest's own now",
    "slowest_plug_seconds": "the longest that a device took to come or go",
    "ballooned_bytes": "what the balloon has left the guest",
    "busy_rounds": "rounds of the busy processes that have ended",
    "moves": "how many times the guest moved to another QEMU, or began to",
    "slowest_move_seconds": "the longest of them",
    "crowd_guests": "guests that fit under the crowd's limit at once",
    "crowd_held_bytes": "what all of them held when the last had settled",
    "crowd_peak_bytes": "the most that all of them ever held",
    "crowd_growth_bytes": "what all held after the last guest less what they held after the first",
    "crowd_available_fall_bytes": "the host's MemAvailable after the first less after the last",
    "settle_t90_ratio": "time to nine tenths in the latest settle against the first after a free",
}

STEP_FAMILIES = {
    r"node\d+_[A-Z]\w*_t90_seconds": "time to nine tenths of one zone in the latest settle",
    r"node\d+_[A-Z]\w*_t90_ratio": "the same against the first settle after a free",
    r"faults_(process|thread)_(base|huge)_(on|idle|off)_per_second": "mean page fault rate with "
    "reporting at work, offered but its driver unbound, or not offered",
    r"faults_(process|thread)_(base|huge)_(on|idle|off)_ci_per_second": "half the width of its "
    "95 % confidence interval",
    r"cost_(process|thread)_(base|huge)_(on|idle)_fraction": "1 - rate / rate with reporting off, "
    "the mean over rounds measured in turn",
    r"cost_(process|thread)_(base|huge)_(on|idle)_ci_fraction": "half the width of its 95 % "
    "confidence interval",
}

# Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal's.
_T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_Z95 = 1.96


def step_measures(events: Sequence[Event]) -> dict[str, float]:
    """Every such measure that can be taken from these events."""
    found: dict[str, float] = {}
    for event in events:
        if isinstance(event, Measured):
            found[event.name] = event.value
        elif isinstance(event, OrderRead):
            found["order_read"] = event.read
            if event.asked is not None:
                found["order_refused"] = float(event.refused)
        elif isinstance(event, Ballooned):
            found["ballooned_bytes"] = event.bytes
    sleeps = [event for event in events if isinstance(event, Suspended)]
    if sleeps:
        found["sleeps"] = len(sleeps)
        found["unslept"] = sum(not event.slept for event in sleeps)
        found["slowest_sleep_seconds"] = max(event.seconds for event in sleeps)
    plugs = [event for event in events if isinstance(event, DevicePlugged)]
    if plugs:
        found["slowest_plug_seconds"] = max(event.seconds for event in plugs)
        found["plugged_bytes"] = sum(e.bytes if e.present else -e.bytes for e in plugs)
    busy = [event.rounds for event in events if isinstance(event, BusyEnded)]
    if busy:
        found["busy_rounds"] = sum(busy)
    moves = [event.seconds for event in events if isinstance(event, GuestMoved)]
    if moves:
        found |= {"moves": len(moves), "slowest_move_seconds": max(moves)}
    return {**found, **_t90_ratios(events), **_crowd(events), **_fault_rates(events)}


def _t90_ratios(events: Sequence[Event]) -> dict[str, float]:
    # What booting has freed settles first, and is no round to compare with.
    first_free = next((n for n, event in enumerate(events) if isinstance(event, ChurnFreed)), None)
    if first_free is None:
        return {}
    settles = [event for event in events[first_free:] if isinstance(event, Settled)]
    timed = [event for event in settles if event.t90]
    if not timed or timed[-1] is not settles[-1]:
        return {}
    first, last = timed[0], timed[-1]
    zones = {name.replace("/", "_"): seconds for name, seconds in last.zone_t90.items()}
    found = {f"{zone}_t90_seconds": seconds for zone, seconds in zones.items()}
    if last is first:
        return found
    assert first.t90
    assert last.t90
    found["settle_t90_ratio"] = last.t90 / first.t90
    for name, seconds in first.zone_t90.items():
        zone = name.replace("/", "_")
        if seconds and zone in zones:
            found[f"{zone}_t90_ratio"] = zones[zone] / seconds
    return found


def _crowd(events: Sequence[Event]) -> dict[str, float]:
    grown = [event for event in events if isinstance(event, CrowdGrew)]
    if not any(isinstance(event, CrowdFull) for event in events):
        return {}
    found: dict[str, float] = {"crowd_guests": max((e.guests for e in grown), default=0)}
    if grown:
        found["crowd_held_bytes"] = grown[-1].held
        found["crowd_peak_bytes"] = max(event.peak for event in grown)
        found["crowd_growth_bytes"] = grown[-1].held - grown[0].held
        found["crowd_available_fall_bytes"] = grown[0].available - grown[-1].available
    return found


def _fault_rates(events: Sequence[Event]) -> dict[str, float]:
    """Mean rates with the half width of their 95 % confidence intervals, and what reporting costs.

    The cost is 1 - on / off, and for the driver unbound 1 - idle / off, by the ratios of the
    rounds: rate n of one state against rate n of the other, which were measured in turn.
    """
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if isinstance(event, FaultRate):
            rates[f"{event.by}_{event.pages}", event.state].append(event.per_second)
    found: dict[str, float] = {}
    for (what, state), values in rates.items():
        found[f"faults_{what}_{state}_per_second"] = fmean(values)
        if len(values) > 1:
            found[f"faults_{what}_{state}_ci_per_second"] = half_width(values)
        base = rates.get((what, "off"), [])
        if state != "off" and base:
            costs = [1 - value / other for value, other in zip(values, base, strict=False)]
            found[f"cost_{what}_{state}_fraction"] = fmean(costs)
            if len(costs) > 1:
                found[f"cost_{what}_{state}_ci_fraction"] = half_width(costs)
    return found


def half_width(values: Sequence[float]) -> float:
    """Half the width of the mean's 95 % confidence interval (Student's t), of two values or more"""
    freedom = len(values) - 1
    point = _T95[freedom - 1] if freedom <= len(_T95) else _Z95
    return point * stdev(values) / math.sqrt(len(values))
