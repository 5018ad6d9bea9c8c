# SPDX-License-Identifier: Apache-2.0
"""Measures: what each is over a small run, and when it has not been taken."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from judging import run_on
from run_builders import (
    FREED,
    HELD_BEFORE,
    Guest,
    a_run,
    every_step,
    freed,
    healthy,
    mapping,
    of_a_file,
    pressed,
    ready,
    sampled,
    settled,
    started,
    zone,
)

from harness.kernel.pages import GuestState, HostState
from harness.measure.measures import AUDIT_MEASURES, MEASURES
from harness.measure.measures import measure as measure_history
from harness.record.events import (
    Ballooned,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    DevicePlugged,
    Event,
    GuestMoved,
    GuestReady,
    StepsDone,
)
from harness.record.facts import DiscardTotals
from harness.record.folding import fold
from harness.units import MIB
from harness.verdict.expressions import check_name


def measure(events: Sequence[Event]) -> dict[str, float]:
    return measure_history(fold(events))


def test_a_healthy_run() -> None:
    assert measure(a_run()) == {
        "withheld_bytes": 0,
        "never_reported_bytes": 0,
        "free_drift_bytes": 0,
        "unreportable_zone_bytes": 0,
        "memory_bytes": 256 * MIB,
        "boots": 1,
        "pass_seconds": 2.0,
        "guest_free_bytes": 43008 * 4096,
        "boot_seconds": 3.5,
        "block_bytes": 2 * MIB,
        "batch_bytes": 64 * MIB,
        "freed_bytes": FREED,
        "reclaimable_bytes": FREED - 4 * MIB,
        "rounds": 1,
        "reclaimed_bytes": HELD_BEFORE - 52 * MIB,
        "reclaimed_fraction": (HELD_BEFORE - 52 * MIB) / FREED,
        "worst_reclaimed_fraction": (HELD_BEFORE - 52 * MIB) / FREED,
        "settle_seconds": 16.0,
        "settle_t50_seconds": 6.0,
        "settle_t90_seconds": 14.0,
        "remaining_bytes": 0,
        "lazyfree_bytes": 0,
        "huge_bytes": 0,
        "first_fill_page_seconds": 2.0 * 4096 / (FREED + 8 * MIB),
        "unjudged_bytes": 0,
        "discarded_bytes": 160 * MIB,
        "failed_discard_bytes": 0,
        "reported_bytes": 204 * MIB,
        "reported_resident_bytes": 0,
        "unreported_free_bytes": 0,
        "retained_free_bytes": 4 * MIB,
        "percpu_free_bytes": 0,
        "used_absent_bytes": 0,
        "suspect_bytes": 0,
        "held_absent_bytes": 0,
        "integrity_mismatched_pages": 0,
        "console_findings": 0,
        "held_bytes": 52 * MIB,
        "rss_bytes": 52 * MIB,
        "swapped_bytes": 0,
        "worst_node_returned_fraction": 1.0,
        "node0_returned_fraction": 1.0,
        "worst_zone_returned_fraction": 1.0,
        "node0_DMA32_returned_fraction": 1.0,
        "rule_error_bytes": 0,
        "below_watermark_reported_bytes": 0,
        "tail_reported_bytes": 0,
        "tail_discarded_bytes": 0,
        "page_cache_bytes": 0,
        "shmem_bytes": 0,
        "slab_bytes": 0,
        "compressed_bytes": 0,
        "huge_pool_bytes": 0,
        "deferred_split_bytes": 0,
        "balloon_resident_bytes": 0,
        "lost_bytes": 0,
        "outside_growth_bytes": 0,
    }


def test_every_measure_taken_is_documented() -> None:
    pressure = pressed(45.0, before=52 * MIB, after=50 * MIB)
    first = a_run(earlier=[healthy().audited(15.0, "held"), pressure], last=())
    charged = healthy().audited()
    charged = replace(
        charged,
        mapping=mapping(1, file_blocks=4096, cgroup_current=5, merged=3),
        counters=replace(charged.counters, meminfo={"MemFree": 7}),
    )
    steps = every_step()
    again = [*steps[-2:-1], *sampled(), steps[-1]]
    taken = measure([*first, *steps, *a_run(audits=[charged, charged]), *again])
    assert {name for name in taken if name not in MEASURES} == {
        "node0_returned_fraction",
        "node0_DMA32_returned_fraction",
        "node0_DMA32_t90_seconds",
        "faults_process_base_on_per_second",
        "faults_process_base_on_ci_per_second",
        "faults_process_base_off_per_second",
        "faults_process_base_off_ci_per_second",
        "cost_process_base_on_fraction",
        "cost_process_base_on_ci_fraction",
    }
    for name in taken:
        check_name(name)
    assert set(taken) >= set(MEASURES)


def test_nothing_is_measured_of_a_guest_that_never_ran() -> None:
    assert measure([]) == {}
    assert measure(started()[:2]) == {}
    assert set(measure(started())) == {
        "memory_bytes",
        "boots",
        "boot_seconds",
        "pass_seconds",
        "block_bytes",
        "batch_bytes",
        "console_findings",
    }


def test_without_an_audit_no_page_is_measured() -> None:
    assert not AUDIT_MEASURES & set(measure(a_run(audits=())))


TAKEN_OR_FREED = [freed(70.0), ChurnHeld(70.0, 8 * MIB, 0.1)]
MOVED = [
    GuestMoved(70.0, "migrated", 2.0),
    DevicePlugged(70.0, "dimm", 128 * MIB, present=False, seconds=2.0),
    Ballooned(70.0, 128 * MIB, 2.0),
]


@pytest.mark.parametrize("event", [*TAKEN_OR_FREED, *MOVED])
def test_an_audit_from_before_memory_moved_is_out_of_date(event: Event) -> None:
    """ "reported and resident: 0" before the churn says nothing about what came after it."""
    found = measure([*a_run(last=()), event])
    assert set(found) & AUDIT_MEASURES <= {"held_absent_bytes", "lost_bytes"}


@pytest.mark.parametrize("event", TAKEN_OR_FREED)
def test_so_is_a_settle_once_memory_was_taken_or_freed(event: Event) -> None:
    found = measure([*a_run(last=()), event])
    assert not {"settle_seconds", "remaining_bytes"} & set(found)


def under_a_virtual_clock(events: Sequence[Event]) -> list[Event]:
    return [
        replace(event, clock="virtual") if isinstance(event, GuestReady) else event
        for event in events
    ]


def test_a_virtual_clock_gives_no_time_of_a_settle() -> None:
    """An idle guest skips most of its seconds, and the host's are not the guest's."""
    missing = measure(a_run()).keys() - measure(under_a_virtual_clock(a_run())).keys()
    assert missing == {"settle_seconds", "settle_t50_seconds", "settle_t90_seconds"}


@pytest.mark.parametrize("listed", [0.5, 0.998, 0.9995])
def test_an_audit_that_lists_less_than_the_zones_have_measures_no_page(listed: float) -> None:
    """64 of 1024 MiB, all well, say nothing of the rest."""
    audit = healthy().audited()
    report = replace(audit.report, listed=round(256 * MIB * listed), present=256 * MIB)
    found = measure(a_run(audits=[replace(audit, report=report)]))
    assert ("reported_resident_bytes" in found) is (listed > 0.999)
    assert ("lost_bytes" in found) is (listed > 0.999)


@pytest.mark.parametrize("host", [HostState.UNKNOWN, HostState.RESIDENT])
def test_an_audit_that_could_not_look_measures_no_page(host: HostState) -> None:
    """10 of 128 blocks without host state are too many; their state known, all is measured."""
    guest = healthy().blocks(26, 10, GuestState.REPORTED, host)
    found = measure(a_run(guest))
    blind = host is HostState.UNKNOWN
    assert ("reported_resident_bytes" in found) is not blind
    assert ("held_absent_bytes" in found) is not blind, "8 MiB were held"
    nothing_held = measure(a_run(guest, freed_as=freed(still_held=0)))
    assert nothing_held["held_absent_bytes"] == 0, "there was nothing to lose"
    assert found["unjudged_bytes"] == (20 * MIB if blind else 0)


def test_an_audit_of_no_pages_measures_none() -> None:
    empty = Guest(states=Guest().states[:0], host=Guest().host[:0])
    assert "reported_resident_bytes" not in measure(a_run(empty))


def test_held_memory_seen_lost_once_stays_on_record() -> None:
    lossy = healthy().blocks(18, 1, GuestState.HELD, HostState.ABSENT)
    found = measure(a_run(earlier=[lossy.audited(15.0, "held")]))
    assert found["held_absent_bytes"] == 2 * MIB
    assert found["used_absent_bytes"] == 0, "this one is of the latest audit"


def test_verifying_nothing_is_no_verification() -> None:
    events = [*started(), ChurnVerified(9.0, 0, 0)]
    assert "integrity_mismatched_pages" not in measure(events)
    events.append(ChurnVerified(9.0, MIB, 2))
    assert measure([*events, ChurnVerified(9.5, MIB, 3)])["integrity_mismatched_pages"] == 5


def test_what_was_held_and_not_looked_at_leaves_the_rest_unverified() -> None:
    events = [*started(), ChurnVerified(9.0, MIB, 0), ChurnVerified(9.5, MIB, 0, unchecked=4096)]
    assert "integrity_mismatched_pages" not in measure(events)
    events.append(ChurnVerified(10.0, MIB, 1, unchecked=4096))
    assert measure(events)["integrity_mismatched_pages"] == 1, "a loss is one all the same"


def test_damage_to_the_tools_own_bookkeeping_is_a_loss_though_nothing_was_checked() -> None:
    events = [*started(), ChurnVerified(9.0, 0, 0, unchecked=MIB, damaged=256)]
    assert measure(events)["integrity_mismatched_pages"] == 256


def test_discards_count_since_the_free_or_since_launch() -> None:
    audit = healthy().audited(discards=DiscardTotals(9, 100 * MIB, 2, 4 * MIB))
    before = freed(discards_before=DiscardTotals(4, 30 * MIB, 1, 3 * MIB))
    found = measure(a_run(freed_as=before, audits=[audit]))
    assert (found["discarded_bytes"], found["failed_discard_bytes"]) == (70 * MIB, MIB)
    assert measure([*started(), audit])["discarded_bytes"] == 100 * MIB
    unknown = freed(discards_before=None)
    assert "discarded_bytes" not in measure(a_run(freed_as=unknown, audits=[audit]))
    assert "discarded_bytes" not in measure(a_run(audits=[replace(audit, discards=None)]))


def test_discards_of_another_qemu_are_not_counted_from_a_free_in_the_first() -> None:
    first, second = DiscardTotals(9, 100 * MIB, 0, 0), DiscardTotals(1, 2 * MIB, 0, 0)
    moved = GuestMoved(61.0, "migrated", 2.0)
    events = [*a_run(freed_as=freed(discards_before=first), last=()), moved]
    there = healthy().audited(62.0, discards=second)
    assert "discarded_bytes" not in measure([*events, there])
    stayed = [*events[:-1], replace(moved, how="cancelled"), healthy().audited(62.0)]
    assert "discarded_bytes" in measure(stayed)
    plugged = DevicePlugged(61.0, "dimm", 128 * MIB, present=False, seconds=2.0)
    assert "discarded_bytes" not in measure([*events[:-1], plugged, there])
    again = freed(63.0, discards_before=second)
    assert measure([*events, there, again, replace(there, t=64.0)])["discarded_bytes"] == 0


def test_held_for_a_file_is_its_blocks() -> None:
    """Dropped from the mapping but not from the file is not reclaimed."""
    before = freed(before=of_a_file(HELD_BEFORE, blocks=HELD_BEFORE))
    after = healthy().audited(mapping=of_a_file(0, blocks=HELD_BEFORE))
    assert measure(a_run(freed_as=before, audits=[after]))["reclaimed_bytes"] == 0


def test_reclaimed_needs_a_look_after_the_free() -> None:
    found = measure([*started(), freed()])
    assert found["freed_bytes"] == FREED
    assert not {"reclaimed_bytes", "reclaimed_fraction", "worst_reclaimed_fraction"} & set(found)


def test_freeing_nothing_has_no_fraction() -> None:
    found = measure(a_run(freed_as=freed(bytes=0)))
    assert "reclaimed_fraction" not in found


def test_a_settle_that_never_saw_the_guests_pages_knows_no_rest() -> None:
    assert "remaining_bytes" not in measure(a_run(settled_as=settled(remaining=None)))


class TestRounds:
    def rounds(self, *held: int) -> list[Event]:
        events: list[Event] = started()
        for number, size in enumerate(held):
            events += [
                ChurnHeld(number, FREED, 1.0),
                healthy().audited(number, "held", mapping=mapping(900 * MIB)),
                freed(number),
                settled(number, held=size * MIB),
            ]
        return events

    def test_the_last_round_counts_and_the_worst_is_kept(self) -> None:
        found = measure(self.rounds(56, 136, 72))
        assert found["rounds"] == 3
        assert found["reclaimed_fraction"] == (216 - 72) / 160
        assert found["worst_reclaimed_fraction"] == 0.5
        assert found["residue_growth_bytes"] == 16 * MIB

    def test_one_round_has_no_growth(self) -> None:
        assert "residue_growth_bytes" not in measure(self.rounds(56))

    def test_a_round_nobody_looked_at_leaves_the_worst_unknown(self) -> None:
        events = self.rounds(56, 136, 72)
        del events[-1]
        found = measure(events)
        assert "worst_reclaimed_fraction" not in found
        assert "residue_growth_bytes" not in found


class TestReclaimable:
    """Freed, less what the rule does not cover and was not so just before."""

    def test_growth_of_small_free_blocks_is_taken_off(self) -> None:
        assert measure(a_run())["reclaimable_bytes"] == FREED - 4 * MIB

    def test_fragments_that_were_there_before_are_not(self) -> None:
        found = measure(a_run(freed_as=freed(zones_before=healthy().zones)))
        assert found["reclaimable_bytes"] == FREED

    def test_what_the_per_cpu_lists_took_is_taken_off(self) -> None:
        guest = healthy()
        guest.zones = (zone(per_cpu=512),)
        found = measure(run_on(guest))
        assert found["percpu_free_bytes"] == 2 * MIB
        assert found["reclaimable_bytes"] == FREED - 2 * MIB

    def test_what_no_pass_may_have_had_time_for_is_taken_off(self) -> None:
        final = healthy().audited()
        total = replace(final.report.total, free_new_resident=24 * MIB)
        late = replace(final, report=replace(final.report, total=total))
        assert measure(a_run(audits=[late]))["reclaimable_bytes"] == FREED - 28 * MIB

    def test_what_the_lists_had_at_an_audit_before_the_fill_excuses_nothing_and_hides_nothing(
        self,
    ) -> None:
        """The fill takes it from the lists, and the free puts it there again."""
        guest = healthy()
        guest.zones = (zone(per_cpu=512),)
        found = measure(run_on(guest, earlier=[guest.audited(15.0, "before")]))
        assert found["reclaimable_bytes"] == FREED - 2 * MIB

    def test_a_zone_that_came_over_its_watermark_excuses_no_other(self) -> None:
        """While the memory was held, none of the zone could be reported; now most of it can."""
        held = freed(zones_before=(zone(free=600),))
        assert measure(a_run(freed_as=held))["reclaimable_bytes"] == FREED - (1024 - 600) * 4096

    def test_a_zone_under_its_watermark_keeps_all_it_has(self) -> None:
        guest = healthy()
        guest.zones = (zone(free=16000),)
        before = freed(zones_before=(zone(free=1000),))
        found = measure(run_on(guest, freed_as=before))
        assert found["reclaimable_bytes"] == FREED - 15000 * 4096


def test_an_order_nothing_can_have_has_no_block() -> None:
    found = measure([ready(page_reporting_order=0xFFFFFFFF)])
    assert "block_bytes" not in found


def test_console_findings_count_even_without_a_guest() -> None:
    assert measure([ConsoleFinding(1.0, "crash", "panic", "...")])["console_findings"] == 1


def test_pressure_gives_back_and_puts_the_audit_out_of_date() -> None:
    pressure = pressed(52.0, before=52 * MIB, after=12 * MIB)
    values = measure([*a_run(last=()), pressure, StepsDone(60.0)])
    assert values["pressed_bytes"] == 40 * MIB
    assert values["reclaimed_bytes"] == HELD_BEFORE - 12 * MIB
    assert "lazyfree_bytes" not in values, "the audit saw the host before the pressure"


def test_the_time_of_a_page_is_that_of_the_first_and_the_latest_fill() -> None:
    again = ChurnHeld(70.0, FREED, 4.0)
    values = measure([*a_run(last=()), again])
    assert values["first_fill_page_seconds"] == 2.0 * 4096 / (FREED + 8 * MIB)
    assert values["refill_page_seconds"] == 4.0 * 4096 / FREED
