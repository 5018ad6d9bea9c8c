# SPDX-License-Identifier: Apache-2.0
"""Guests run together while the host holds them all; one too large for it runs alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from entrant import Entrant

from harness.act.discover import VERBS
from harness.run.pool import QEMU_OVERHEAD, Admission, Room, workers_at_once
from harness.scenario.load import load_scenarios
from harness.scenario.model import Scenario
from harness.units import GIB

PLENTY = Room(memory=64 * GIB, vcpus=64, huge_pages=64 * GIB)
GUEST = GIB + QEMU_OVERHEAD

MakeGuest = Callable[..., Scenario]


@pytest.fixture
def guest(tmp_path: Path) -> MakeGuest:
    """A scenario with a guest of 1 GiB and two processors."""

    def make(backend: str = "anonymous") -> Scenario:
        path = tmp_path / "x.yaml"
        path.write_text(
            "name: x\ntitle: t\nguest: {memory: 1GiB, vcpus: 2}\n"
            f"host: {{backend: {backend}}}\nsteps: [settle: {{}}]\n"
        )
        (scenario,) = load_scenarios(path, VERBS)
        return scenario

    return make


Arrive = Callable[[Admission, Scenario], Entrant]


@pytest.fixture
def arrive() -> Iterator[Arrive]:
    runs: list[Entrant] = []

    def one_more(admission: Admission, scenario: Scenario) -> Entrant:
        runs.append(Entrant(admission.admit(scenario)))
        return runs[-1]

    yield one_more
    for run in runs:  # in the order in which they can be in
        run.leave()


@pytest.mark.parametrize(
    "room",
    [
        replace(PLENTY, memory=2 * GUEST),
        replace(PLENTY, vcpus=4),
        replace(PLENTY, huge_pages=2 * GIB),
    ],
    ids=str,
)
def test_a_third_guest_waits_until_one_of_two_has_ended(
    room: Room, guest: MakeGuest, arrive: Arrive
) -> None:
    admission, scenario = Admission(room), guest("hugetlb")
    first = arrive(admission, scenario)
    assert first.is_in
    assert arrive(admission, scenario).is_in
    third = arrive(admission, scenario)
    assert third.waits
    first.leave()
    assert third.is_in


def test_only_guests_of_huge_pages_share_their_pool(guest: MakeGuest, arrive: Arrive) -> None:
    admission = Admission(replace(PLENTY, huge_pages=GIB))
    assert arrive(admission, guest("hugetlb")).is_in
    assert arrive(admission, guest("hugetlb")).waits
    assert arrive(admission, guest("memfd-shared")).is_in


@pytest.mark.parametrize(
    "room", [Room(memory=1, vcpus=1, huge_pages=0), replace(PLENTY, huge_pages=1)], ids=str
)
def test_a_guest_too_large_for_the_host_runs_alone(
    room: Room, guest: MakeGuest, arrive: Arrive
) -> None:
    admission, scenario = Admission(room), guest("hugetlb")
    first = arrive(admission, scenario)
    assert first.is_in
    second = arrive(admission, scenario)
    assert second.waits
    first.leave()
    assert second.is_in


def test_a_host_without_huge_pages_delays_nobody(guest: MakeGuest, arrive: Arrive) -> None:
    """Each is told by itself that it cannot run here."""
    admission = Admission(replace(PLENTY, huge_pages=0))
    assert arrive(admission, guest("hugetlb")).is_in
    assert arrive(admission, guest("hugetlb")).is_in


@pytest.mark.parametrize(("slow", "vcpus"), [(1.0, 16), (1.9, 16), (2.0, 8), (9.0, 8)])
def test_cores_are_not_shared_where_guests_have_no_time_to_wait(
    monkeypatch: pytest.MonkeyPatch, slow: float, vcpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr("harness.run.pool.slowness", lambda: slow)
    assert Room.of_host().vcpus == vcpus


def test_this_host_has_room() -> None:
    room = Room.of_host()
    assert room.memory > 0
    assert room.vcpus >= 1


def test_the_limit_of_the_own_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run.pool.memory_file", lambda _pid: Path("memory.current"))
    monkeypatch.setattr("harness.run.pool.group_room", lambda _charge: 1000)
    assert Room.of_host().memory == 800
    monkeypatch.setattr("harness.run.pool.group_room", lambda _charge: 1 << 60)
    assert 800 < Room.of_host().memory < 1 << 59


@pytest.mark.parametrize(
    ("memory", "vcpus", "workers"),
    [(0, 16, 1), (3 * GUEST + 1, 16, 3), (100 * GUEST, 16, 8), (100 * GUEST, 8, 4)],
)
def test_workers_of_a_host_with_eight_cores(
    monkeypatch: pytest.MonkeyPatch, memory: int, vcpus: int, workers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    room = Room(memory=memory, vcpus=vcpus, huge_pages=0)
    monkeypatch.setattr(Room, "of_host", classmethod(lambda _cls: room))
    assert workers_at_once() == workers
