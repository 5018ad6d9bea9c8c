# SPDX-License-Identifier: Apache-2.0
"""Times of a record that the sampler, or the record itself, contradicts: never a PASS."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from judging import RECLAIM, check
from run_builders import a_run, noise, settled

from harness.kernel.settling import SettleOutcome
from harness.record.events import Event, NoiseRead, PhaseStarted, Sample, Settled
from harness.record.facts import Verdict
from harness.units import MIB

BEGAN, ENDED = 22.0, 40.0
BEFORE, AFTER = 204 * MIB, 52 * MIB


def samples(back_at: float = 35.0, *, last_held: int = AFTER) -> list[Sample]:
    """Ten a second: all of it comes back at one moment, and QEMU discards it then."""
    times = [BEGAN + 0.1 * step for step in range(180)]
    held = [BEFORE if t < back_at else AFTER for t in times[:-1]]
    return [
        Sample(t, size, size, 0, 44 * MIB if t < back_at else 204 * MIB, 0)
        for t, size in zip(times, [*held, last_held], strict=True)
    ]


def a_wait(
    told: Settled, seen: Sequence[Event] = (), after: int | None = None, **of_run: Any
) -> list[Event]:
    """A healthy run whose wait is sampled."""
    phase: Event = PhaseStarted(BEGAN, "settle")
    events = a_run(settled_as=told, **of_run)
    at = events.index(told)
    later = [] if after is None else [Sample(ENDED + 0.2, after, after, 0, 204 * MIB, 0)]
    return [*events[:at], phase, *seen, told, *later, *events[at + 1 :]]


WAIT = settled(ENDED, seconds=13.0, t50=12.9, t90=13.0)


def test_a_wait_that_the_sampler_confirms_is_a_pass() -> None:
    assert check(a_wait(WAIT, samples(), AFTER), RECLAIM)[0] is Verdict.PASS
    # All was back before the wait first looked.
    early = settled(ENDED, seconds=0.0, t50=None, t90=None)
    assert check(a_wait(early, samples(back_at=24.0), AFTER), RECLAIM)[0] is Verdict.PASS


WAITS = {
    "half back after 90 %": (settled(ENDED, t50=14.0, t90=6.0), "half come back after 14.0 s"),
    "half back, and never 90 %": (settled(ENDED, t90=None), "90 % after None s"),
    "drained, unseen": (settled(ENDED, remaining=None), "nobody looked at what remained"),
    "longer than it took": (settled(ENDED, seconds=19.0), "took 18.0 s, and its times lie"),
    "a zone later than its end": (
        settled(ENDED, zone_t90={"node0/DMA32": 60.0}), "took 18.0 s, and its times lie"),
    "before it began": (settled(ENDED, seconds=-1.0), "took 18.0 s, and its times lie"),
    "movement that ended before the last discard": (
        settled(ENDED, seconds=1.0, t50=12.9, t90=13.0), "discarded more after 13.0 s"),
    "memory back before the sampler saw it": (
        settled(ENDED, seconds=13.0, t50=1.0, t90=2.0), "the sampler after 13.0 s"),
    "memory never back": (
        settled(ENDED, seconds=13.0, t50=None, t90=None), "90 % come back never"),
    "less with the host than the sampler saw": (
        settled(ENDED, seconds=13.0, t50=12.9, t90=13.0, held=8 * MIB), "left 8MiB with the host"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "words"), WAITS.values(), ids=WAITS)
def test_a_wait_whose_times_are_contradicted_is_no_pass(told: Settled, words: str) -> None:
    verdict, cause, reason = check(a_wait(told, samples(), AFTER), RECLAIM)
    assert (verdict, cause) == (Verdict.MISS, None)
    assert "contradicts itself: the settle that ended at 40.0 s" in reason
    assert words in reason


def test_time_in_which_the_host_let_nobody_look_bounds_what_the_times_say() -> None:
    """Seen on a host at a load of 9: 90 % back after 14.4 s, and after 4.2 s by a sampler that had
    no sample for 3.9 and 3.3 s afterwards."""
    told = settled(ENDED, seconds=13.0, t50=1.0, t90=2.0)
    seen = [each for each in samples() if not 27.0 < each.t < 30.0]
    assert check(a_wait(told, seen, AFTER), RECLAIM)[0] is Verdict.PASS
    far = samples(back_at=38.0)
    seen = [each for each in far if not 27.0 < each.t < 30.0]
    assert check(a_wait(told, seen, AFTER), RECLAIM)[0] is Verdict.MISS


def test_samples_that_are_not_exact_do_not_contradict_what_was_held() -> None:
    """Seen: 26 MiB too much of a guest of 512 MiB, by which QEMU's translated code had grown."""
    quick = [replace(each, lazyfree=None) for each in samples()]
    told = replace(WAIT, held=8 * MIB)
    assert check(a_wait(told, quick, AFTER), RECLAIM)[0] is Verdict.PASS


def test_memory_that_moves_at_the_end_of_a_wait_contradicts_nothing() -> None:
    moving = replace(WAIT, outcome=SettleOutcome.IDLE, held=120 * MIB)
    events = a_wait(moving, samples(last_held=BEFORE), AFTER)
    assert "left 120MiB" not in check(events, RECLAIM)[2]


NOISES = {
    "read once": ([noise(4.0)], "not read before the first"),
    "never read": ([], "not read before the first"),
    "not after the last audit": ([noise(4.0), noise(45.0)], "not read before the first"),
    "not before the first audit": ([noise(52.0), noise(55.0)], "not read before the first"),
    "falling": ([noise(4.0, pswpout=9), noise(55.0, pswpout=3)], "pswpout of the host fell"),
    "read only sometimes": (
        [noise(4.0), noise(55.0, thp_collapse=None)], "thp_collapse of the host was read only"),
}  # fmt: skip


@pytest.mark.parametrize(("readings", "words"), NOISES.values(), ids=NOISES)
def test_readings_of_the_host_that_are_missing_or_fall_are_no_pass(
    readings: list[NoiseRead], words: str
) -> None:
    rest = [event for event in a_run() if not isinstance(event, NoiseRead)]
    events = sorted([*rest[:-1], *readings], key=lambda event: event.t)
    verdict, _cause, reason = check([*events, rest[-1]], RECLAIM)
    assert verdict is Verdict.MISS
    assert words in reason
