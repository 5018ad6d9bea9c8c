# SPDX-License-Identifier: Apache-2.0
"""`race`: blocks are taken again in the moment in which they have been reported."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_guest import FakeGuest
from fake_process import FakeProcess
from guest_words import counters
from run_builders import zone

from harness.act.verbs.race import SLACK, Race
from harness.errors import GuestError, PreconditionError
from harness.guest.race_client import RaceReport, run_race
from harness.kernel.zones import Zone
from harness.machine.interposer import slow_from
from harness.record.events import ChurnVerified, Raced
from harness.units import MIB, PAGE_SIZE

HELD = 800 * MIB


def a_zone(name: str, *, free: int, low: int) -> Zone:
    return zone(name=name, free=free // PAGE_SIZE, low=low // PAGE_SIZE)


ZONES = (
    a_zone("DMA", free=15 * MIB, low=MIB),
    a_zone("DMA32", free=900 * MIB, low=54 * MIB),
)


def said(
    *, reused: Sequence[int] = (60, 64), checked: int = HELD, wrong: int = 0, early: int = 0
) -> str:
    """The words of a race of so many rounds; MiB that each took of 64 it saw reported."""
    rounds = "".join(
        f"raced round={number} waited_ns=2000000000 reported_bytes={64 * MIB} "
        f"reused_bytes={mib * MIB} taken_ns={number}00000000 early_bytes={early} mono_ns=1\n"
        for number, mib in enumerate(reused, 1)
    )
    return (
        f"filled bytes={HELD} pid=7 seconds=2.0 mono_ns=1\n{rounds}"
        f"{'mismatch page=3 pfn=0x9 ' if wrong else 'verifying '}bytes=1\n"
        f"verified bytes={checked} held_bytes={HELD} mismatched_pages={wrong} damaged_entries=0 "
        "unproven_pages=0 text_changed=0 mono_ns=2\n"
    )


def race(guest: FakeGuest, words: str, *, rounds: int = 2, zones: Sequence[Zone] = ZONES) -> None:
    guest.vm.says["counters --once"] = counters(zones)
    guest.vm.says["fpr-guest race"] = FakeProcess(words, stderr="out of memory", status=1)
    Race.model_validate({"rounds": rounds}).perform(guest)


def test_nearly_all_is_held_and_a_batch_of_it_raced_for(guest: FakeGuest) -> None:
    """The watermark of a zone that is not reported takes no part."""
    race(guest, said())
    told = re.fullmatch(
        r"fpr-guest race --cushion (\d+) --window (\d+) --rounds 2 --seed \d+ --wait-ms (\d+) "
        r"--hold-ms 500 --pass-ms 2000 --slow-ms 0",
        guest.vm.commands[-1],
    )
    assert told is not None
    cushion, window, wait = (int(number) for number in told.groups())
    assert (cushion, window) == (54 * MIB + SLACK, 64 * MIB)
    assert wait == 7000, "two passes of 2 s and some"


def test_a_slow_guest_has_longer_to_report(guest: FakeGuest) -> None:
    """A guest that took 69 s to boot met no report in four rounds of 7 s."""
    guest.vm.pace = 4.0
    race(guest, said())
    assert " --wait-ms 16000 " in guest.vm.commands[-1]


def test_a_slow_host_is_slow_from_when_all_is_held_to_the_last_check(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is reported once the tool has ended would only keep the host busy."""
    guest.vm.spec = replace(guest.vm.spec, discard="slow")
    seen: list[bool] = []

    def watched(*arguments: Any, begin: Callable[[], None], **options: Any) -> RaceReport:
        def begun() -> None:
            begin()
            seen.append(slow_from(guest.vm.directory).exists())

        seen.append(slow_from(guest.vm.directory).exists())
        return run_race(*arguments, begin=begun, **options)

    monkeypatch.setattr("harness.act.verbs.race.run_race", watched)
    race(guest, said())
    assert seen == [False, True]
    assert not slow_from(guest.vm.directory).exists()
    assert guest.vm.commands[-1].endswith("--pass-ms 2000 --slow-ms 150")


def test_a_host_that_is_not_slow_stays_so(guest: FakeGuest) -> None:
    race(guest, said())
    assert not slow_from(guest.vm.directory).exists()


def test_what_was_raced_for_and_verified_is_recorded(guest: FakeGuest) -> None:
    race(guest, said())
    (raced,), (verified,) = guest.recorded(Raced), guest.recorded(ChurnVerified)
    assert (raced.rounds, raced.reported, raced.reused) == (2, 128 * MIB, 124 * MIB)
    assert raced.slowest == pytest.approx(0.2)
    assert (verified.by, verified.bytes, verified.unchecked) == ("race", HELD, 0)


def test_lost_pages_are_recorded_not_raised(guest: FakeGuest) -> None:
    race(guest, said(wrong=5))
    (verified,) = guest.recorded(ChurnVerified)
    assert verified.mismatched_pages == 5
    assert verified.detail[0].startswith("mismatch page=3 pfn=0x9")


def test_what_was_held_and_not_checked_is_recorded_as_that(guest: FakeGuest) -> None:
    race(guest, said(checked=HELD - MIB))
    assert guest.recorded(ChurnVerified)[0].unchecked == MIB


def test_a_tool_that_ends_early_is_told_with_its_last_words(guest: FakeGuest) -> None:
    with pytest.raises(GuestError, match=r"the race tool ended .*out of memory"):
        race(guest, "filled bytes=1 pid=7 seconds=2.0 mono_ns=1\n")


def test_a_guest_that_can_report_nothing_is_not_raced(guest: FakeGuest) -> None:
    """Too full, or without a reporting order: what else the scenario expects says so."""
    race(guest, said(), zones=[a_zone("DMA32", free=100 * MIB, low=54 * MIB)])
    assert not guest.recorded(Raced)
    assert not guest.recorded(ChurnVerified)


def test_a_kernel_without_huge_pages_cannot_be_raced(guest: FakeGuest) -> None:
    guest.vm.says["transparent_hugepage"] = 1
    with pytest.raises(PreconditionError, match="has no transparent huge pages"):
        race(guest, said())


def test_huge_pages_that_are_off_are_not_called_absent(guest: FakeGuest) -> None:
    """hugepage_init() of mm/huge_memory.c leaves them off in a small guest."""
    guest.vm.says["transparent_hugepage"] = "always madvise [never]\n"
    with pytest.raises(PreconditionError, match="are off in the guest"):
        race(guest, said())


@pytest.mark.parametrize(("discard", "early"), [("slow", 8 * MIB), ("dontneed", None)])
def test_blocks_marked_too_early_are_told_where_the_host_is_slow(
    guest: FakeGuest, discard: Any, early: int | None
) -> None:
    """Where it is not, a discard takes no time that could be missed."""
    guest.vm.spec = replace(guest.vm.spec, discard=discard)
    race(guest, said(early=4 * MIB))
    (raced,) = guest.recorded(Raced)
    assert raced.early == early
