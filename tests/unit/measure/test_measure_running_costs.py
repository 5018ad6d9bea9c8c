# SPDX-License-Identifier: Apache-2.0
"""What QEMU's threads cost while memory comes back, and what the host holds over time."""

from dataclasses import replace

import pytest
from run_builders import a_run, settled

from harness.measure.measures import measure
from harness.record.events import Event, PhaseStarted, Sample
from harness.record.folding import fold
from harness.units import GIB

SHARES = ("qemu_main_cpu_fraction", "qemu_vcpus_cpu_fraction", "qemu_others_cpu_fraction")


def sample(t: float, held: int | None = GIB, cpu: float | None = 0.0) -> Sample:
    """`cpu` seconds of the main thread; the vCPUs take twice, the others half as much."""
    plain = Sample(t, held, held, 0, 0, 0)
    if cpu is None:
        return plain
    return replace(plain, cpu_main=cpu, cpu_vcpus=2 * cpu, cpu_others=cpu / 2)


def measured(*samples: Sample, seconds: float = 10.0, began: float = 30.0) -> dict[str, float]:
    """Of a run whose settle began then and changed the last time after `seconds`."""
    events: list[Event] = a_run()
    index = next(n for n, event in enumerate(events) if event.kind == "settled")
    settle = replace(settled(), seconds=seconds)
    events[index : index + 1] = [PhaseStarted(began, "settle", ""), *samples, settle]
    return measure(fold(events))


def test_shares_are_of_the_time_in_which_memory_came_back() -> None:
    found = measured(sample(31.0, cpu=1.0), sample(39.0, cpu=3.0), sample(60.0, cpu=99.0))
    assert [found[name] for name in SHARES] == pytest.approx([0.25, 0.5, 0.125])


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [sample(31.0)],
        [sample(31.0), sample(31.5, cpu=1.0)],
        [sample(31.0, cpu=None), sample(39.0, cpu=None)],
        [sample(50.0), sample(60.0, cpu=1.0)],
    ],
)
def test_what_was_not_seen_for_a_second_is_no_share(samples: list[Sample]) -> None:
    assert not set(SHARES) & measured(*samples).keys()


def test_the_footprint_is_what_the_host_held_over_time() -> None:
    found = measured(
        sample(30.0, 2 * GIB), sample(60.0, 2 * GIB), sample(75.0, None), sample(90.0, 4 * GIB)
    )
    # A minute of two, half of it rising to four: 30 s of 2 GiB, 30 s of 3 GiB.
    assert found["footprint_gib_minutes"] == pytest.approx(2.5)
    assert found["held_mean_bytes"] == pytest.approx(2.5 * GIB)


def test_without_two_samples_there_is_none() -> None:
    assert not {"footprint_gib_minutes", "held_mean_bytes"} & measured(sample(30.0)).keys()
