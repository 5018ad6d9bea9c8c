# SPDX-License-Identifier: Apache-2.0
"""`pressure`: the host takes what is lazily free, in whichever way it can."""

from types import SimpleNamespace
from typing import Any

import pytest
from fake_guest import FakeGuest
from run_builders import mapping

from harness.act.verbs import pressure as module
from harness.act.verbs.pressure import Pressure, discarded_ranges
from harness.errors import PreconditionError
from harness.record.events import Pressed
from harness.units import MIB, PAGE_SIZE


class Host:
    """Can do some of the three ways, and keeps what it was told."""

    def __init__(self, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch, *can: str) -> None:
        self.did: list[tuple[str, Any]] = []

        def way(name: str) -> Any:
            def press(*told: Any) -> None:
                self.did.append((name, told))
                if name not in can:
                    raise PreconditionError(f"no {name} here")

            return press

        monkeypatch.setattr(module, "page_out", way("process-madvise"))
        monkeypatch.setattr(module, "reclaim_v2", way("cgroup-reclaim"))
        guest.vm.memory_group = SimpleNamespace(press=way("cgroup-limit"))
        guest.host.mappings = [
            mapping(200 * MIB, lazyfree=64 * MIB),
            mapping(136 * MIB, lazyfree=0),
        ]


def test_the_first_way_that_this_host_can_do_is_taken(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(guest, monkeypatch, "cgroup-reclaim", "cgroup-limit")
    Pressure().perform(guest)
    assert [name for name, _told in host.did] == ["process-madvise", "cgroup-reclaim"]
    assert host.did[1][1] == (guest.vm.pid, 64 * MIB)
    (event,) = guest.recorded(Pressed)
    assert (event.by, event.before.lazyfree, event.after.lazyfree) == (
        "cgroup-reclaim",
        64 * MIB,
        0,
    )


def test_a_way_that_the_scenario_names_is_the_only_one(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(guest, monkeypatch, "process-madvise", "cgroup-limit")
    Pressure.model_validate({"by": "cgroup-limit"}).perform(guest)
    assert host.did == [("cgroup-limit", (64 * MIB,))]


def test_a_host_that_can_do_none_is_a_skip_with_every_reason(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Host(guest, monkeypatch)
    guest.vm.memory_group = None
    with pytest.raises(
        PreconditionError,
        match="process-madvise: no process-madvise here; cgroup-reclaim: no cgroup-reclaim here; "
        "cgroup-limit: no memory group here",
    ):
        Pressure().perform(guest)
    assert not guest.recorded(Pressed)


def test_only_what_was_discarded_is_pressed(guest: FakeGuest) -> None:
    guest.host.discarded_at[[3, 4, 5, 9]] = 1
    base = guest.instruments.layout.pieces[0].hva
    assert discarded_ranges(guest.instruments) == [
        (base + 3 * PAGE_SIZE, base + 6 * PAGE_SIZE),
        (base + 9 * PAGE_SIZE, base + 10 * PAGE_SIZE),
    ]
