# SPDX-License-Identifier: Apache-2.0
"""Check what a record says of time: its waits, and the readings of the host's noise.

The sampler sees memory come back independently of the step that waits for it. Both look a few times
a second, and less often on a loaded host, so their times may differ; the limits are several times
what differed in a thousand waits under TCG and KVM.
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from typing import TypeGuard

from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import block_size
from harness.measure.usable import UNJUDGED_LIMIT
from harness.record.events import COMPLETE_SCHEMA, Sample
from harness.record.facts import HostNoise
from harness.record.history import History, Waited
from harness.units import format_size

SEEN_SECONDS = 8.0
SEEN_SHARE = 0.5
"""How far the times of a wait may be from those that the sampler saw: seconds, or a fraction of the
wait, whichever is more; seen: 2.7 s, and once 6.1 s under nested KVM."""

GAP_SECONDS = 1.0
"""A longer time without a sample, which are taken five times a second, is one in which the host let
nobody look; what came back then may have been seen by either at its end."""

NEAR_SECONDS = 1.0
"""A sample at most so long before or after the end of a wait shows what the host held then."""

FALL_BLOCKS = 32
"""The sampler's times count if the host's memory fell by so many blocks."""

_NO_COUNTERS = ("at", "mem_available")
_COUNTERS = tuple(each.name for each in fields(HostNoise) if each.name not in _NO_COUNTERS)


def untimely(history: History) -> Iterator[str]:
    """Yield the contradictions of a record in its waits and its readings of the host."""
    for waited in history.waits:
        where = f"the settle that ended at {waited.settled.t:.1f} s "
        yield from (where + said for said in _wait(waited, history))
    yield from _noise(history)


def _wait(waited: Waited, history: History) -> Iterator[str]:
    settled = waited.settled
    if settled.outcome is SettleOutcome.DRAINED and settled.remaining is None:
        yield "drained, and nobody looked at what remained"
    if (settled.t50 is None) != (settled.t90 is None) or (settled.t50 or 0) > (settled.t90 or 0):
        yield f"saw half come back after {settled.t50} s, and 90 % after {settled.t90} s"
    if waited.began is None:
        return
    lasted = settled.t - waited.began
    times = (settled.seconds, settled.t50, settled.t90, *settled.zone_t90.values())
    if not all(0 <= time <= lasted for time in times if time is not None):
        yield f"took {lasted:.1f} s, and its times lie outside"
    yield from _sampled(waited, lasted, block_size(history.order))
    yield from _held(waited, history)


def _sampled(waited: Waited, lasted: float, block: int) -> Iterator[str]:
    """Compare the times of a wait with what the sampler saw meanwhile."""
    assert waited.began is not None
    gaps = [later.t - earlier.t for earlier, later in pairwise(waited.samples)]
    blind = sum(gap for gap in gaps if gap > GAP_SECONDS)
    settled, off = waited.settled, max(SEEN_SECONDS, SEEN_SHARE * lasted) + blind
    grew = [
        later.t - waited.began
        for earlier, later in pairwise(waited.samples)
        if None not in (earlier.discarded, later.discarded) and later.discarded != earlier.discarded
    ]
    if grew and grew[-1] > settled.seconds + off:
        yield (
            f"saw the last movement after {settled.seconds:.1f} s, and QEMU discarded more after "
            f"{grew[-1]:.1f} s"
        )
    held = [(each.t - waited.began, each.held) for each in waited.samples if each.held is not None]
    if not held or held[0][1] - held[-1][1] < FALL_BLOCKS * block:
        return
    low = held[0][1] - 0.9 * (held[0][1] - held[-1][1])
    seen = next(at for at, size in held if size <= low)
    # Where it was back before the wait first looked, the wait saw nothing come back.
    if abs(seen - (settled.t90 or 0.0)) > off:
        told = "never" if settled.t90 is None else f"after {settled.t90:.1f} s"
        yield f"saw 90 % come back {told}, and the sampler after {seen:.1f} s"


def _held(waited: Waited, history: History) -> Iterator[str]:
    """Compare what the host held at the end of a wait with the samples before and after.

    Of exact readings only: the others take the growth of QEMU's own memory since the last exact
    one for the guest's, under TCG some 10 MiB a second of translated code after a boot.
    """
    near = [each for each in (*waited.samples[-1:], waited.after) if _is_near(each, waited)]
    sizes = [each.held for each in near if each.held is not None and each.lazyfree is not None]
    if len(sizes) < 2 or history.ready is None:
        return
    moved = UNJUDGED_LIMIT * history.ready.memory
    if not min(sizes) - moved <= waited.settled.held <= max(sizes) + moved:
        yield (
            f"left {format_size(waited.settled.held)} with the host, and the sampler saw "
            f"{format_size(sizes[0])} before and {format_size(sizes[1])} after"
        )


def _is_near(sample: Sample | None, waited: Waited) -> TypeGuard[Sample]:
    return sample is not None and abs(sample.t - waited.settled.t) <= NEAR_SECONDS


def _noise(history: History) -> Iterator[str]:
    """Check that the host's counters were read before and after all audits, and never fell."""
    readings = history.noise
    if history.schema >= COMPLETE_SCHEMA and history.steps_done:
        times = [audit.t for audit in history.audits]
        first, last = (readings[0].t, readings[-1].t) if len(readings) > 1 else (1.0, 0.0)
        if first > last or (times and not first <= min(times) <= max(times) <= last):
            yield "the host's counters were not read before the first and after the last audit"
    for name in _COUNTERS:
        values = [getattr(each.noise, name) for each in readings]
        if len({value is None for value in values}) > 1:
            yield f"{name} of the host was read only sometimes"
        elif None not in values and any(later < earlier for earlier, later in pairwise(values)):
            yield f"{name} of the host fell"
