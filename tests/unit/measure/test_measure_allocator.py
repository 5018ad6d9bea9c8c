# SPDX-License-Identifier: Apache-2.0
"""Measures of the guest's allocator: blocks never put back, sums that disagree, small zones."""

from dataclasses import replace

import pytest
from run_builders import Guest, a_run, freed, healthy, zone

from harness.kernel.pages import GuestState, HostState
from harness.measure.measures import measure as measure_history
from harness.record.events import BusyEnded, Event
from harness.record.facts import DiscardTotals
from harness.record.folding import fold
from harness.units import MIB, PAGE_SIZE

BLOCK = 512


def measure(events: list[Event]) -> dict[str, float]:
    return measure_history(fold(events))


def leaky(blocks: int = 3, *, per_cpu: int = 0) -> Guest:
    """Blocks in use that went to the host and that nobody has touched since."""
    guest = healthy().blocks(106, blocks, GuestState.USED, HostState.ABSENT)
    guest.zones = tuple(replace(each, per_cpu=per_cpu) for each in guest.zones)
    return guest


def test_blocks_that_never_came_back_are_withheld() -> None:
    assert measure(a_run(leaky()))["withheld_bytes"] == 6 * MIB
    assert measure(a_run(healthy()))["withheld_bytes"] == 0


def test_the_per_cpu_lists_and_the_huge_pages_explain_such_blocks() -> None:
    assert measure(a_run(leaky(per_cpu=3 * BLOCK)))["withheld_bytes"] == 0
    pooled = leaky()
    pooled.meminfo = {"HugePages_Free": 3, "Hugepagesize": 2 * MIB}
    assert measure(a_run(pooled))["withheld_bytes"] == 0


@pytest.mark.parametrize(("lost", "withheld"), [(0, 0), (4 * MIB, 4 * MIB), (40 * MIB, 6 * MIB)])
def test_what_the_accounts_lost_is_withheld_however_long_the_lists(
    lost: int, withheld: int
) -> None:
    """The lists may be long; what they hold is known, and what is in no account is not theirs."""
    before, after = healthy(), leaky(per_cpu=10 * BLOCK)
    before.meminfo = {"MemTotal": 256 * MIB, "MemFree": 200 * MIB}
    listed = 10 * BLOCK * PAGE_SIZE
    after.meminfo = {"MemTotal": 256 * MIB, "MemFree": 200 * MIB - listed - lost}
    found = measure(a_run(after, earlier=[before.audited(12.0, "before")]))
    assert found["withheld_bytes"] == withheld


def test_what_the_kernel_has_mapped_for_itself_is_not_lost() -> None:
    """Setting up zram takes a table of 2 MiB by vmalloc(), and the lists have a block meanwhile."""
    before, after = healthy(), leaky(per_cpu=10 * BLOCK)
    before.meminfo = {"MemTotal": 256 * MIB, "MemFree": 200 * MIB, "VmallocUsed": 5 * MIB}
    free = 190 * MIB - 10 * BLOCK * PAGE_SIZE
    after.meminfo = {"MemTotal": 256 * MIB, "MemFree": free, "VmallocUsed": 15 * MIB}
    found = measure(a_run(after, earlier=[before.audited(12.0, "before")]))
    assert found["withheld_bytes"] == 0


def test_memory_that_was_taken_offline_has_not_lost_its_memory_map() -> None:
    """On 6.1 a guest put 128 MiB offline, whose map of 2 MiB stays, and its lists had a block."""
    before, after = healthy(), leaky(per_cpu=10 * BLOCK)
    before.meminfo = {"MemTotal": 512 * MIB, "MemFree": 400 * MIB}
    after.meminfo = {"MemTotal": 384 * MIB, "MemFree": 272 * MIB - 10 * BLOCK * PAGE_SIZE}
    audited = before.audited(12.0, "before")
    larger = tuple(
        replace(each, present=each.present + 128 * MIB // PAGE_SIZE)
        for each in audited.counters.zones
    )
    audited = replace(audited, counters=replace(audited.counters, zones=larger))
    found = measure(a_run(after, earlier=[audited]))
    assert found["withheld_bytes"] == 0


@pytest.mark.parametrize("counted", [True, False])
def test_the_memory_map_of_a_plugged_dimm_is_not_lost(counted: bool) -> None:
    """A guest with 7.3.4 took 4 MiB for the map of 256 MiB, and its lists had a block meanwhile."""
    before, after = healthy(), leaky(per_cpu=10 * BLOCK)
    before.meminfo = {"MemTotal": 256 * MIB, "MemFree": 200 * MIB}
    free = 452 * MIB - 10 * BLOCK * PAGE_SIZE
    after.meminfo = {"MemTotal": 512 * MIB, "MemFree": free}
    if counted:
        before.vmstat, after.vmstat = {"nr_memmap_pages": 0}, {"nr_memmap_pages": 1024}
    audited = before.audited(12.0, "before")
    unplugged = tuple(replace(each, present=0) for each in audited.counters.zones)
    audited = replace(audited, counters=replace(audited.counters, zones=unplugged))
    found = measure(a_run(after, earlier=[audited]))
    assert found["withheld_bytes"] == 0


@pytest.mark.parametrize("state", [GuestState.HELD, GuestState.CONTENT])
def test_what_somebody_has_written_is_not_withheld_but_lost(state: GuestState) -> None:
    guest = healthy().blocks(106, 3, state, HostState.ABSENT)
    assert measure(a_run(guest))["withheld_bytes"] == 0


def test_a_block_that_the_host_was_never_told_of_is_not_withheld() -> None:
    guest = leaky()
    assert guest.discarded is not None
    guest.discarded[106 * BLOCK : 108 * BLOCK] = False
    assert measure(a_run(guest))["withheld_bytes"] == 2 * MIB
    guest.discarded = None
    assert "withheld_bytes" not in measure(a_run(guest))


def test_a_count_of_free_pages_that_the_lists_contradict_has_drifted() -> None:
    guest = healthy()
    assert measure(a_run(guest))["free_drift_bytes"] == 0
    (only,) = guest.zones
    for free in (only.free - 700, only.free + 700):
        guest.zones = (replace(only, free=free),)
        assert measure(a_run(guest))["free_drift_bytes"] == 700 * PAGE_SIZE


def test_a_zone_that_is_always_below_its_watermark_reports_nothing() -> None:
    """16 MiB can never be above the watermark of order 9, which is 64 MiB."""
    small = zone(name="DMA", spanned=8 * BLOCK, present=8 * BLOCK, managed=8 * BLOCK, free=3000)
    rest = 120 * BLOCK
    large = zone(start_pfn=8 * BLOCK, spanned=rest, present=rest, managed=rest)
    guest = Guest(zones=(replace(small, free_blocks=(0,) * 11), large))
    guest.blocks(8, 10, GuestState.REPORTED, HostState.ABSENT)
    assert measure(a_run(guest))["unreportable_zone_bytes"] == 0
    guest.blocks(2, 3, GuestState.REPORTED, HostState.ABSENT)
    assert measure(a_run(guest))["unreportable_zone_bytes"] == 6 * MIB
    guest.order = 2
    assert measure(a_run(guest))["unreportable_zone_bytes"] == 6 * MIB, "the run's order is 9"


def test_a_quiet_guest_is_watched_between_two_audits() -> None:
    first = healthy().audited(51.0, "settled", discards=DiscardTotals(92, 184 * MIB, 0, 0))
    last = healthy().audited(58.0, "quiet")
    assert measure(a_run(audits=[first, last]))["quiet_discarded_bytes"] == 20 * MIB
    assert "quiet_discarded_bytes" not in measure(a_run(audits=[last]))


@pytest.mark.parametrize("event", [freed(54.0), BusyEnded(54.0, 3)])
def test_a_guest_that_did_something_was_not_quiet(event: Event) -> None:
    first = healthy().audited(51.0, "settled", discards=DiscardTotals(92, 184 * MIB, 0, 0))
    audits = a_run(audits=[first])
    events = [*audits[:-2], event, healthy().audited(58.0, "quiet"), *audits[-2:]]
    assert "quiet_discarded_bytes" not in measure(events)


@pytest.mark.parametrize("host", [HostState.ABSENT, HostState.RESIDENT])
def test_a_block_that_was_never_reported_is_seen_though_nobody_ever_touched_it(
    host: HostState,
) -> None:
    """As the last block of a zone, which costs the host nothing until somebody does."""
    guest = healthy().blocks(126, 1, GuestState.USED, HostState.RESIDENT)
    guest.blocks(127, 1, GuestState.FREE, host)
    assert measure(a_run(guest))["never_reported_bytes"] == 0, "it was reported and merged since"
    assert guest.discarded is not None
    guest.discarded[127 * BLOCK :] = False
    assert measure(a_run(guest))["never_reported_bytes"] == 2 * MIB
    guest.discarded = None
    assert "never_reported_bytes" not in measure(a_run(guest))
