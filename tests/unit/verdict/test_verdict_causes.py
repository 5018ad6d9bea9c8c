# SPDX-License-Identifier: Apache-2.0
"""The cause of a FAIL: each from a small run that differs from a healthy one."""

from dataclasses import replace
from typing import Any

import pytest
from judging import FRACTION, RECLAIM, G, S, check, run_on, swallowed, warning
from run_builders import (
    FREED,
    Guest,
    a_run,
    freed,
    healthy,
    mapping,
    noise,
    of_a_file,
    ready,
    settled,
    started,
    zone,
)

from harness.kernel.settling import SettleOutcome
from harness.record.events import (
    ChurnHeld,
    CrowdFull,
    CrowdGrew,
    DriverChanged,
    Event,
    FaultRate,
    Measured,
    StepsDone,
)
from harness.record.facts import Cause, GuestCounters, Verdict
from harness.units import GIB, MIB


class TestControls:
    @pytest.mark.parametrize(
        "expectations",
        [
            {"reclaimed_bytes": "<= 5% * freed_bytes"},
            {"reclaimed_fraction": "< 0.5"},
            {"discarded_bytes": "== 0"},
            {"reported_bytes": "== 0"},
            {"unreported_free_bytes": ">= 100MiB"},
        ],
        ids=str,
    )
    def test_memory_that_came_back_breaks_a_control(self, expectations: dict[str, str]) -> None:
        verdict, cause, reason = check(a_run(), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.CONTROL_BROKEN)
        assert reason.startswith("memory came back that should have stayed: ")


class TestFeatureOff:
    KEPT = healthy().blocks(26, 102, G.FREE, S.RESIDENT)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"ready_as": ready(offered=False, negotiated=False)}, "does not offer"),
            ({"ready_as": ready(negotiated=False)}, "did not accept"),
            ({"earlier": [DriverChanged(16.0, False)]}, "was not bound"),
        ],
    )
    def test_nothing_comes_back_with_the_feature_off(
        self, changes: dict[str, Any], words: str
    ) -> None:
        verdict, cause, reason = check(run_on(self.KEPT, **changes))
        assert (verdict, cause) == (Verdict.FAIL, Cause.FEATURE_OFF)
        assert words in reason

    def test_a_driver_bound_again_is_on(self) -> None:
        bound = [DriverChanged(16.0, False), DriverChanged(17.0, True)]
        assert check(run_on(self.KEPT, earlier=bound))[1] is Cause.NOT_REPORTED


class TestLayers:
    """The faults seen on a real host, each named by its layer with its bytes."""

    def test_discards_swallowed(self) -> None:
        guest = swallowed()
        verdict, cause, reason = check(run_on(guest))
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert reason.startswith(
            "160MiB the guest reported are still resident on the host: QEMU's trace shows the "
            "discards, so the host kept them, or something has touched them since (first at PFN "
            "0x3400): "
        )
        assert reason.endswith("; also failed: reported_resident_bytes")

    def test_reports_acknowledged_and_never_discarded(self) -> None:
        guest = swallowed(40)
        assert guest.discarded is not None
        guest.discarded[:] = False
        verdict, cause, reason = check(run_on(guest))
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "shows no discard" in reason

    def test_failed_discards(self) -> None:
        audit = healthy().audited()
        assert audit.discards is not None
        failed = replace(audit.discards, failed_calls=2, failed_bytes=4 * MIB, errno=22)
        audit = replace(audit, discards=failed)
        verdict, cause, reason = check(a_run(audits=[audit]), {"failed_discard_bytes": "== 0"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "QEMU failed to discard 4MiB" in reason
        assert "(EINVAL, Invalid argument)" in reason

    def test_one_resident_page_is_enough(self) -> None:
        guest = healthy()
        guest.host[30 * 512 + 5] = S.RESIDENT
        assert check(run_on(guest))[1] is Cause.ACKED_NOT_DISCARDED

    def test_a_small_fault_is_not_blamed_for_a_large_shortfall(self) -> None:
        """One stray page beside 100 MiB the guest never reported."""
        guest = healthy().blocks(26, 50, G.FREE, S.RESIDENT)
        guest.host[100 * 512] = S.RESIDENT
        assert check(run_on(guest), FRACTION)[1] is Cause.NOT_REPORTED

    @pytest.mark.parametrize("expectations", [RECLAIM, {"lazyfree_bytes": "== 0"}], ids=len)
    def test_lazily_free(self, expectations: dict[str, str]) -> None:
        guest = swallowed()
        held = guest.audited().mapping
        audit = guest.audited(mapping=replace(held, lazyfree=160 * MIB))
        events = run_on(guest, audits=[audit])
        verdict, cause, reason = check(events, expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.LAZILY_FREE)
        assert "160MiB of guest memory are lazily free" in reason

    @pytest.mark.parametrize(
        ("guest", "lazyfree", "cause"),
        [
            (swallowed(), 80, Cause.ACKED_NOT_DISCARDED),
            (healthy(), 0, Cause.CONTROL_BROKEN),
        ],
        ids=["half was never freed", "all is gone"],
    )
    def test_less_lazily_free_than_it_should_be(
        self, guest: Guest, lazyfree: int, cause: Cause
    ) -> None:
        audit = guest.audited(mapping=replace(guest.audited().mapping, lazyfree=lazyfree * MIB))
        verdict, seen, _ = check(run_on(guest, audits=[audit]), {"lazyfree_bytes": ">= 150MiB"})
        assert (verdict, seen) == (Verdict.FAIL, cause)

    def test_unmapped_but_still_in_the_file(self) -> None:
        before = freed(before=of_a_file(216 * MIB, blocks=216 * MIB))
        after = healthy().audited(mapping=of_a_file(52 * MIB, blocks=216 * MIB))
        events = a_run(freed_as=before, settled_as=settled(held=216 * MIB), audits=[after])
        verdict, cause, reason = check(events)
        assert (verdict, cause) == (Verdict.FAIL, Cause.STILL_CHARGED)
        assert "160MiB left QEMU's mapping but not the file" in reason

    @pytest.mark.parametrize("expectations", [RECLAIM, {"swapped_bytes": "<= 1MiB"}], ids=str)
    def test_swapped_out_instead_of_given_back(self, expectations: dict[str, str]) -> None:
        """With the host at ease, guest memory in swap was put there by whoever discards."""
        events = run_on(
            healthy().blocks(26, 80, G.REPORTED, S.SWAPPED), noise_as=noise(55.0, pswpout=40960)
        )
        verdict, cause, reason = check(events, expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.STILL_CHARGED)
        assert "160MiB the guest reported went to the host's swap" in reason


class TestNotReported:
    GUEST = healthy().blocks(26, 60, G.FREE, S.RESIDENT)

    @pytest.mark.parametrize("expectations", [FRACTION, {"unreported_free_bytes": "== 0"}], ids=str)
    def test_large_free_blocks_after_the_guest_went_idle(
        self, expectations: dict[str, str]
    ) -> None:
        idle = settled(outcome=SettleOutcome.IDLE, held=172 * MIB, remaining=120 * MIB)
        verdict, cause, reason = check(run_on(self.GUEST, settled_as=idle), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.NOT_REPORTED)
        assert reason.startswith("120MiB are free in the guest in blocks of at least 2MiB")

    @pytest.mark.parametrize("expectations", [FRACTION, {"unreported_free_bytes": "== 0"}], ids=str)
    def test_while_it_still_moves_it_has_not_settled(self, expectations: dict[str, str]) -> None:
        moving = settled(outcome=SettleOutcome.MOVING, held=172 * MIB, remaining=120 * MIB)
        verdict, cause, reason = check(run_on(self.GUEST, settled_as=moving), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.NOT_SETTLED)
        assert "when the settle deadline passed, 120MiB remained" in reason

    def test_it_can_run_out_of_time_before_anybody_saw_what_remains(self) -> None:
        moving = settled(outcome=SettleOutcome.MOVING, held=172 * MIB, remaining=None)
        _, cause, reason = check(run_on(self.GUEST, settled_as=moving), FRACTION)
        assert cause is Cause.NOT_SETTLED
        assert "when the settle deadline passed: reclaimed_fraction" in reason

    def test_what_a_settle_alone_can_tell(self) -> None:
        idle = settled(outcome=SettleOutcome.IDLE, held=172 * MIB, remaining=120 * MIB)
        assert check(a_run(settled_as=idle, audits=()), FRACTION)[1] is Cause.NOT_REPORTED
        drained = settled(held=172 * MIB)
        verdict, cause, reason = check(a_run(settled_as=drained, audits=()), FRACTION)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
        assert "no usable audit" in reason

    def test_too_slow(self) -> None:
        slow = settled(seconds=48.0)
        verdict, cause, reason = check(a_run(settled_as=slow), {"settle_seconds": "<= 40"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.NOT_SETTLED)
        assert "settle_seconds 48.0 s, expected <= 40.0 s" in reason


class TestGuestRetained:
    """Nothing to blame but the guest: it keeps the memory, and the reason is named."""

    def judged(self, guest: Guest, **meminfo: int) -> str:
        """The reason, with meminfo in MiB growing from nothing since an audit before the free."""
        zero = GuestCounters(15.0, dict.fromkeys(meminfo, 0), {}, guest.zones)
        before = healthy().audited(15.0, "held", counters=zero)
        guest.meminfo = {key: value * MIB for key, value in meminfo.items()}
        verdict, cause, reason = check(run_on(guest, earlier=[before]), FRACTION)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
        return reason

    def guest(self) -> Guest:
        return healthy().blocks(26, 60, G.USED, S.RESIDENT)

    def test_page_cache(self) -> None:
        assert "page cache holds 115MiB more than before" in self.judged(
            self.guest(), Cached=120, Buffers=5, Shmem=10
        )

    def test_files_on_tmpfs(self) -> None:
        assert "tmpfs and shared memory in the guest hold 118MiB more" in self.judged(
            self.guest(), Cached=120, Shmem=118
        )

    def test_compressed_swap(self) -> None:
        """No field of /proc/meminfo counts the pool of zram or zswap; vmstat does, in pages."""
        zero = GuestCounters(15.0, {}, {"nr_zspages": 256}, (zone(),))
        guest = self.guest()
        guest.vmstat = {"nr_zspages": 256 + 110 * 256}
        earlier = [healthy().audited(15.0, "held", counters=zero)]
        _verdict, cause, reason = check(run_on(guest, earlier=earlier), FRACTION)
        assert cause is Cause.GUEST_RETAINED
        assert reason.startswith("the guest holds 110MiB of compressed swap (zram, zswap) more")

    def test_slab(self) -> None:
        assert "kernel holds 110MiB of slab" in self.judged(self.guest(), Slab=110, Cached=3)

    def test_anonymous_memory_of_others(self) -> None:
        """168 MiB were the tool's before the free, and 8 MiB are now."""
        guest = self.guest()
        before = healthy().audited(
            15.0, "held", counters=GuestCounters(15.0, {"AnonPages": 170 * MIB}, {}, guest.zones)
        )
        guest.meminfo = {"AnonPages": 125 * MIB}
        _, cause, reason = check(run_on(guest, earlier=[before]), FRACTION)
        assert cause is Cause.GUEST_RETAINED
        assert "processes in the guest other than the churn tool hold 115MiB" in reason

    def test_the_pool_of_huge_pages(self) -> None:
        guest = self.guest()
        guest.meminfo = {"HugePages_Free": 60, "Hugepagesize": 2 * MIB}
        _, cause, reason = check(run_on(guest), FRACTION)
        assert cause is Cause.GUEST_RETAINED
        assert "120MiB lie unused in the guest's pool of huge pages" in reason

    @pytest.mark.parametrize(("hidden", "named"), [(119, "119MiB"), (400, "122MiB")])
    def test_huge_pages_whose_split_is_deferred(self, hidden: int, named: str) -> None:
        """As many bytes as are in no account, and no more than 61 huge pages can hide."""
        guest = self.guest()
        guest.meminfo = {"MemTotal": 900 * MIB, "MemFree": (900 - hidden) * MIB}
        guest.vmstat = {"thp_deferred_split_page": 61}
        _, cause, reason = check(run_on(guest), FRACTION)
        assert cause is Cause.GUEST_RETAINED
        assert f"about {named} are the freed parts of transparent huge pages" in reason

    def test_fragmentation_below_the_order(self) -> None:
        reason = self.judged(healthy().fragments(26, 80), Cached=7)
        assert reason.startswith(
            "84MiB of what was freed are free in the guest but in blocks below 2MiB, the reporting "
            "order 9: fragmentation"
        )

    def test_pages_on_the_per_cpu_lists_that_break_the_blocks_around_them(self) -> None:
        """As page tables do that were freed last: a page or two of nearly every block is listed."""
        guest = healthy().blocks(26, 80, G.FREE, S.RESIDENT)
        guest.states[26 * 512 + 7 : 106 * 512 : 512] = G.USED
        guest.zones = (zone(per_cpu=90, free_blocks=(80 * 511, *[0] * 10)),)
        reason = self.judged(guest)
        assert (
            "fragmentation (160MiB of it in blocks that lack at most 4 pages each, 80 in all; "
            "the per-CPU lists hold 90 free pages)" in reason
        )
        guest.zones = (zone(per_cpu=79, free_blocks=(80 * 511, *[0] * 10)),)
        assert "fragmentation:" in self.judged(guest), "the lists cannot have them all"

    def test_per_cpu_lists_that_took_whole_huge_pages(self) -> None:
        """As 6.1 does: each CPU may keep up to `high` pages, blocks of order 9 among them."""
        guest = self.guest()
        guest.zones = (zone(per_cpu=61 * 512),)
        before = freed(zones_before=(zone(per_cpu=512),))
        _, cause, reason = check(run_on(guest, freed_as=before), FRACTION)
        assert cause is Cause.GUEST_RETAINED
        assert reason.startswith("120MiB of what was freed are free on the guest's per-CPU lists")

    def test_a_zone_under_its_watermark(self) -> None:
        guest = healthy().blocks(26, 60, G.FREE, S.RESIDENT)
        guest.zones = (zone(free=700 + (32 << 9)),)
        assert "below their watermark" in self.judged(guest)

    def test_memory_of_the_balloon_that_the_host_holds_is_not_the_guests(self) -> None:
        """Swallowed inflation, beside a little that the guest has just freed."""
        guest = healthy().blocks(26, 60, G.OFFLINE, S.RESIDENT).blocks(86, 20, G.FREE, S.RESIDENT)
        _, cause, reason = check(run_on(guest), {"held_bytes": "<= 64MiB"})
        assert cause is Cause.ACKED_NOT_DISCARDED
        assert reason.startswith("120MiB in the balloon, or plugged and not in use, are still")

    @pytest.mark.parametrize(
        ("host_page", "words"),
        [
            (4096, "QEMU did not discard them, or the discards had no effect"),
            (2 * MIB, "at most 1MiB in one request, and QEMU discards none of the pages of 2MiB"),
        ],
    )
    def test_balloon_on_pages_larger_than_its_requests(self, host_page: int, words: str) -> None:
        guest = healthy().blocks(26, 60, G.OFFLINE, S.RESIDENT)
        run = run_on(guest, ready_as=ready(host_page=host_page))
        _, cause, reason = check(run, {"balloon_resident_bytes": "== 0"})
        assert cause is Cause.ACKED_NOT_DISCARDED
        assert words in reason

    def test_memory_the_guest_simply_uses(self) -> None:
        reason = self.judged(self.guest(), Cached=6)
        assert "page cache holds 6MiB" in reason
        first = (
            "no account explains half of the 108MiB missing; the largest, of 6MiB: the guest's page"
        )
        assert reason.startswith(first)

    def test_residue_that_grows_over_the_rounds(self) -> None:
        first: list[Event] = [freed(12.0), settled(13.0), ChurnHeld(14.0, FREED, 1.0)]
        guest = healthy().blocks(26, 20, G.USED, S.RESIDENT)
        guest.meminfo = {"Cached": 40 * MIB}
        _, cause, reason = check(
            run_on(guest, earlier=first), {"residue_growth_bytes": "<= batch_bytes / 4"}
        )
        assert cause is Cause.GUEST_RETAINED
        assert "page cache holds 40MiB" in reason

    def test_memory_that_the_guest_put_offline_is_named(self) -> None:
        audit = healthy().audited(mapping=mapping(180 * MIB))
        events = run_on(healthy(), audits=[replace(audit, put_offline=128 * MIB)])
        verdict, cause, reason = check(events)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
        assert reason.startswith("128MiB are in memory blocks that the guest has put offline")

    def test_too_much_retained(self) -> None:
        expectations = {"retained_free_bytes": "<= 64MiB"}
        verdict, cause, _ = check(run_on(healthy().fragments(26, 80)), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)

    def test_too_little_that_could_come_back(self) -> None:
        events = run_on(healthy().fragments(26, 80))
        _, cause, reason = check(events, {"reclaimable_bytes": ">= 95% * freed_bytes"})
        assert cause is Cause.GUEST_RETAINED
        assert "84MiB of what was freed are free in the guest but in blocks below 2MiB" in reason
        assert "reclaimable_bytes 76MiB, expected >= 152MiB" in reason


def test_a_zone_under_its_watermark_that_reports() -> None:
    low = healthy()
    low.zones = (zone(free=100),)
    events = run_on(low)
    verdict, cause, reason = check(events, {"below_watermark_reported_bytes": "== 0"})
    assert (verdict, cause) == (Verdict.FAIL, Cause.CONTROL_BROKEN)
    assert reason.startswith("a zone below its watermark reported memory")


class TestOfOneMeasureOnly:
    """One measure that falls short has a cause too: a broken kernel is no broken scenario."""

    @pytest.mark.parametrize(
        ("expectation", "cause"),
        [
            ({"node0_DMA32_returned_fraction": ">= 0.9"}, Cause.NOT_REPORTED),
            ({"node0_returned_fraction": ">= 0.9"}, Cause.NOT_REPORTED),
            ({"slab_bytes": "<= 1MiB"}, Cause.GUEST_RETAINED),
            ({"huge_bytes": ">= 1GiB"}, Cause.OVERHEAD),
            ({"guest_free_bytes": ">= 1GiB"}, Cause.GUEST_RETAINED),
            ({"first_fill_page_seconds": "<= 0"}, Cause.OVERHEAD),
        ],
        ids=str,
    )
    def test_its_cause(self, expectation: dict[str, str], cause: Cause) -> None:
        guest = healthy().blocks(26, 102, G.FREE, S.RESIDENT)
        guest.meminfo = {"Slab": 2 * MIB, "MemFree": 80 * MIB}
        verdict, found, _reason = check(run_on(guest), expectation)
        assert (verdict, found) == (Verdict.FAIL, cause)

    def test_a_zone_that_takes_too_long(self) -> None:
        slow = settled(zone_t90={"node0/DMA32": 14.0})
        expectation = {"node0_DMA32_t90_seconds": "<= 10"}
        assert check(a_run(settled_as=slow), expectation)[1] is Cause.NOT_SETTLED

    @pytest.mark.parametrize(
        ("means", "expectation", "cause"),
        [
            (None, "<= 100", Cause.OVERHEAD),
            (Cause.GUEST_HANG, "== 0", Cause.GUEST_HANG),
            (Cause.FEATURE_OFF, ">= 300", Cause.FEATURE_OFF),
            (Cause.FEATURE_OFF, "== 0", Cause.CONTROL_BROKEN),
        ],
    )
    def test_a_number_of_the_scenarios_own_means_what_the_scenario_says(
        self, means: Cause | None, expectation: str, cause: Cause
    ) -> None:
        """And is graver than what a crash or a hang may have brought about."""
        events = [*a_run()[:-1], Measured(59.0, "boot_ms", 200.0, means), StepsDone(60.0)]
        expectations = {"boot_ms": expectation, "boot_seconds": "<= 0"}
        verdict, found, reason = check(events, expectations, measured=frozenset({"boot_ms"}))
        assert (verdict, found) == (Verdict.FAIL, cause)
        assert "boot_ms 200, expected" in reason

    def test_a_fault_rate_that_costs_too_much(self) -> None:
        on = FaultRate(50.0, "process", "base", "on", 50.0)
        off = FaultRate(50.0, "process", "base", "off", 100.0)
        events = [*a_run()[:-1], *([on, off] * 3), StepsDone(60.0)]
        expectations = {"cost_process_base_on_fraction": "<= 0.02"}
        assert check(events, expectations)[:2] == (Verdict.FAIL, Cause.OVERHEAD)

    @pytest.mark.parametrize(
        "expectation",
        [{"node0_returned_fraction": ">= 0.9"}, {"held_bytes": "<= 1MiB"}],
        ids=str,
    )
    def test_its_cause_with_reporting_off(self, expectation: dict[str, str]) -> None:
        guest = healthy().blocks(26, 102, G.FREE, S.RESIDENT)
        off = ready(offered=False, negotiated=False)
        assert check(run_on(guest, ready_as=off), expectation)[1] is Cause.FEATURE_OFF


class TestCrowd:
    """A crowd counts guests; what it does not count is memory that did not come back."""

    EVENTS = (*started(), CrowdGrew(9.0, 2, GIB, GIB, GIB), CrowdFull(9.0, "full"), StepsDone(9.0))

    def test_too_few_guests(self) -> None:
        verdict, cause, reason = check(list(self.EVENTS), {"crowd_guests": ">= 4"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
        assert reason.endswith("crowd_guests 2, expected >= 4")

    def test_too_few_guests_without_reporting(self) -> None:
        events = list(self.EVENTS)
        events[2] = ready(offered=False, negotiated=False)
        assert check(events, {"crowd_guests": ">= 4"})[1] is Cause.FEATURE_OFF

    @pytest.mark.parametrize("condition", [">= 4", "== 4", "> 2", "<= 4", "< 3"])
    def test_a_crowd_that_starts_too_few_guests_cannot_tell(self, condition: str) -> None:
        """As `--set steps[0].crowd.most=3` makes of a scenario that expects four."""
        full = CrowdFull(9.0, "all 2 guests fit", all_fit=True)
        events = [*started(), CrowdGrew(9.0, 2, GIB, GIB, GIB), full, StepsDone(9.0)]
        verdict, cause, reason = check(events, {"crowd_guests": condition})
        assert (verdict, cause) == (Verdict.ERROR, None)
        assert reason.startswith("all 2 guests fit, and whether more would have is not known")
        assert f"crowd_guests {condition} " in reason

    @pytest.mark.parametrize("condition", [">= 2", "== 2", "> 1"])
    def test_all_guests_of_a_crowd_may_be_all_that_is_asked(self, condition: str) -> None:
        full = CrowdFull(9.0, "all 2 guests fit", all_fit=True)
        *events, done = run_on(healthy())
        events += [CrowdGrew(55.0, 2, GIB, GIB, GIB), full, done]
        assert check(events, {"crowd_guests": condition})[0] is Verdict.PASS

    def test_a_crowd_with_too_few_guests_hides_no_other_failure(self) -> None:
        full = CrowdFull(9.0, "all 2 guests fit", all_fit=True)
        events = [*started(), CrowdGrew(9.0, 2, GIB, GIB, GIB), full, StepsDone(9.0)]
        asked = {"crowd_guests": ">= 4", "crowd_held_bytes": "<= 1MiB"}
        assert check(events, asked)[0] is Verdict.FAIL

    def test_too_many_guests_that_keep_what_they_free(self) -> None:
        assert check(list(self.EVENTS), {"crowd_guests": "<= 1"})[1] is Cause.CONTROL_BROKEN


def test_the_worst_round_is_the_one_explained() -> None:
    """Round one lost its discards, round two is fine: the first is what the run is called after."""
    bad = swallowed()
    first: list[Event] = [
        freed(12.0),
        settled(13.0, held=212 * MIB),
        bad.audited(13.5, "first"),
        ChurnHeld(14.0, FREED, 1.0),
    ]
    verdict, cause, reason = check(a_run(earlier=first), {"worst_reclaimed_fraction": ">= 0.95"})
    assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
    assert "160MiB the guest reported" in reason


def test_trouble_on_the_console() -> None:
    verdict, cause, reason = check(a_run(earlier=[warning()]))
    assert (verdict, cause) == (Verdict.FAIL, Cause.KERNEL_WARNING)
    assert reason == "the guest's console shows: WARNING: at mm/page_alloc.c:1234"


def test_a_slow_boot_is_overhead() -> None:
    assert check(a_run(), {"boot_seconds": "<= 1"})[1] is Cause.OVERHEAD
