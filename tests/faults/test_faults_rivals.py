# SPDX-License-Identifier: Apache-2.0
"""What published rules say of runs that are good, broken, or beyond them."""

from collections.abc import Sequence

import pytest
from rivals import RULES, rival_verdicts
from run_builders import freed, mapping, ready, started

from harness.record.events import ChurnHeld, DriverChanged, Event, Sample
from harness.units import GIB, MIB

FIRECRACKER, CLOUD_HYPERVISOR, TP_QEMU, TP_LIBVIRT = RULES
HOG = 512 * MIB
PEAK = 700 * MIB
BASELINE = 180 * MIB


def sample(t: float, rss: int | None) -> Sample:
    return Sample(t=t, held=rss, rss=rss, lazyfree=None, discarded=None, guest_free=None)


def a_run(
    after: Sequence[tuple[float, int]], *, baseline: int | None = BASELINE, bound: bool = True
) -> list[Event]:
    """A guest of 1 GiB whose RSS after the free, at 20 s, was so at these seconds later."""
    events = started()
    events[2] = ready(memory=GIB)
    if not bound:
        events.append(DriverChanged(6.0, bound=False))
    return [
        *events,
        sample(7.0, baseline),
        sample(9.5, PEAK),  # while the hog was being written
        ChurnHeld(10.0, HOG, 2.0),
        freed(20.0, bytes=HOG, still_held=0, before=mapping(PEAK)),
        *(sample(20.0 + at, rss) for at, rss in after),
    ]


def verdicts(events: Sequence[Event]) -> dict[str, bool | None]:
    return {verdict.rival: verdict.passed for verdict in rival_verdicts(events)}


def test_a_run_in_which_all_came_back_passes_everywhere() -> None:
    assert set(verdicts(a_run([(1.0, PEAK), (10.0, 190 * MIB)])).values()) == {True}


def test_nothing_came_back() -> None:
    assert set(verdicts(a_run([(1.0, PEAK), (30.0, PEAK)])).values()) == {False}


def test_a_half_that_came_back_is_enough_for_the_first_two() -> None:
    half = verdicts(a_run([(10.0, PEAK - HOG // 2)]))
    assert half == {
        FIRECRACKER: True,
        CLOUD_HYPERVISOR: True,
        TP_QEMU: False,
        TP_LIBVIRT: False,
    }


@pytest.mark.parametrize(
    ("rule", "fall", "passed"),
    [
        (FIRECRACKER, 40_000_000, True),
        (FIRECRACKER, 39_999_999, False),
        (CLOUD_HYPERVISOR, PEAK - 512 * MIB + 1, True),
        (CLOUD_HYPERVISOR, PEAK - 512 * MIB, False),
        (TP_QEMU, PEAK - BASELINE - 18 * MIB, True),
        (TP_QEMU, PEAK - BASELINE - 18 * MIB - 1, False),
        (TP_QEMU, PEAK - BASELINE + 18 * MIB + 1, False),
        (TP_LIBVIRT, round(0.8 * HOG), True),
        (TP_LIBVIRT, round(0.8 * HOG) - 1, False),
    ],
)
def test_each_rule_at_its_limit(rule: str, fall: int, passed: bool) -> None:
    assert verdicts(a_run([(5.0, PEAK - fall)]))[rule] is passed


def test_what_comes_too_late_does_not_count() -> None:
    late = verdicts(a_run([(1.0, PEAK), (31.0, 400 * MIB), (121.0, BASELINE)]))
    assert late[TP_QEMU] is False
    assert late[CLOUD_HYPERVISOR] is True
    assert verdicts(a_run([(1.0, PEAK), (121.0, BASELINE)]))[CLOUD_HYPERVISOR] is False


@pytest.mark.parametrize(("change", "passed"), [(50 * MIB, True), (50 * MIB + 1, False)])
def test_with_reporting_off_memory_must_stay(change: int, passed: bool) -> None:
    assert verdicts(a_run([(5.0, PEAK - change)], bound=False))[TP_LIBVIRT] is passed
    assert verdicts(a_run([(5.0, PEAK + change)], bound=False))[TP_LIBVIRT] is passed


def test_without_samples_there_is_nothing_to_say() -> None:
    assert set(verdicts([]).values()) == {None}
    assert set(verdicts(a_run([])).values()) == {None}
    assert verdicts(a_run([(5.0, BASELINE)], baseline=None))[TP_QEMU] is None
    assert [verdict.seen for verdict in rival_verdicts(started())] == ["nothing was freed"] * 4
