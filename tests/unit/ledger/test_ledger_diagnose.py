# SPDX-License-Identifier: Apache-2.0
"""The verdict: every word and every cause, from small runs that differ from a healthy one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ledger_builders import (
    FREED,
    Guest,
    a_run,
    freed,
    healthy,
    mapping,
    noise,
    ready,
    settled,
    started,
    zone,
)

from harness.ledger.diagnose import judge
from harness.ledger.facts import (
    Broke,
    Cause,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    DriverChanged,
    Event,
    GuestCounters,
    GuestReady,
    GuestState,
    HostState,
    Judged,
    PhaseStarted,
    SettleOutcome,
    StepsDone,
    Verdict,
)
from harness.units import MIB, PAGE_SIZE

RECLAIM = {
    "reclaimed_fraction": ">= 0.95",
    "reported_resident_bytes": "== 0",
    "integrity_mismatched_pages": "== 0",
    "console_findings": "== 0",
}
CONTROL = {"reclaimed_bytes": "<= 5% * freed_bytes", "reported_bytes": "== 0"}
FRACTION = {"reclaimed_fraction": ">= 0.95"}
S, G = HostState, GuestState


def check(
    events: Sequence[Event], expectations: Mapping[str, str] = RECLAIM, **options: Any
) -> tuple[Verdict, Cause | None, str]:
    judged = judge(events, expectations, **options)
    return judged.verdict, judged.cause, judged.reason


def swallowed(blocks: int = 80) -> Guest:
    """The host kept `blocks` of what was discarded."""
    return healthy().blocks(26, blocks, G.REPORTED, S.RESIDENT)


def held_after(guest: Guest) -> Event:
    """The settle that goes with this guest."""
    return settled(held=guest.audited().mapping.held)


def run_on(guest: Guest, **changes: Any) -> list[Event]:
    return a_run(guest, settled_as=changes.pop("settled_as", held_after(guest)), **changes)


def warning(t: float = 30.0) -> ConsoleFinding:
    return ConsoleFinding(t, "warning", "WARNING: at mm/page_alloc.c:1234", "...")


def crash(t: float = 30.0) -> ConsoleFinding:
    return ConsoleFinding(t, "crash", "Kernel panic - not syncing", "...")


class TestPass:
    def test_a_healthy_run_passes(self) -> None:
        judged = judge(a_run(), RECLAIM, t=61.0)
        assert (judged.verdict, judged.cause, judged.t) == (Verdict.PASS, None, 61.0)
        assert judged.measures["reported_resident_bytes"] == 0

    def test_a_control_in_which_nothing_came_back_passes(self) -> None:
        kept = healthy().blocks(26, 102, G.FREE, S.RESIDENT)
        events = run_on(kept, ready_as=ready(offered=False, negotiated=False))
        assert check(events, CONTROL)[0] is Verdict.PASS

    def test_warnings_matter_only_to_who_asks(self) -> None:
        expectations = {"reported_resident_bytes": "== 0"}
        assert check(a_run(earlier=[warning()]), expectations)[0] is Verdict.PASS

    def test_no_run_passes_in_which_reporting_was_wanted_and_off(self) -> None:
        events = a_run(ready_as=ready(negotiated=False))
        verdict, cause, reason = check(events, reporting_wanted=True)
        assert (verdict, cause) == (Verdict.FAIL, Cause.FEATURE_OFF)
        assert "did not accept" in reason


class TestNeverAWrongPass:
    """Whatever is missing from a record that would pass, the rest is not enough."""

    @pytest.mark.parametrize(
        ("what", "events"),
        [
            ("no audit", a_run(audits=())),
            ("the audit is older than the free", [*a_run(last=()), freed(70.0), StepsDone(80.0)]),
            ("nobody verified the data", [e for e in a_run() if not isinstance(e, ChurnVerified)]),
            ("the steps did not end", a_run(last=())),
            ("no guest ever ran", [e for e in a_run() if not isinstance(e, GuestReady)]),
            ("the audit was blind", run_on(healthy().blocks(26, 20, G.REPORTED, S.UNKNOWN))),
            ("nothing was recorded", []),
            ("nothing was freed", [*started(), healthy().audited(), StepsDone(9.0)]),
        ],
    )
    def test_it_is_a_miss(self, what: str, events: list[Event]) -> None:
        verdict, cause, reason = check(events)
        assert (verdict, cause) == (Verdict.MISS, None), what
        assert reason

    @pytest.mark.parametrize("drop", range(len(a_run())))
    def test_no_single_event_lost_makes_another_run_pass(self, drop: int) -> None:
        """A failing run stays one, or becomes a MISS, whichever line of its record is lost."""
        events = run_on(swallowed())
        del events[drop]
        assert check(events)[0] in (Verdict.FAIL, Verdict.MISS)

    def test_the_reason_says_what_kept_the_audit_from_judging(self) -> None:
        blind = run_on(healthy().blocks(26, 20, G.REPORTED, S.UNKNOWN))
        assert "40MiB without host state" in check(blind)[2]
        assert "no audit was taken" in check(a_run(audits=()))[2]
        late = [*a_run(last=()), freed(70.0), StepsDone(80.0)]
        assert "after the last audit" in check(late, {"reported_bytes": "== 0"})[2]

    def test_a_failure_is_one_even_if_another_expectation_cannot_be_judged(self) -> None:
        verdict, cause, _ = check(run_on(swallowed()), FRACTION | {"reclaimable_bytes": ">= 0"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)

    @pytest.mark.parametrize("text", ["roughly 1", ">= reclaimable", ">= 64MB"])
    def test_an_expectation_nobody_can_read_is_an_error(self, text: str) -> None:
        assert check(a_run(), {"reclaimed_fraction": text})[0] is Verdict.ERROR
        bad = healthy().audited(checks=(f"rounds: {text}",))
        assert check(a_run(audits=[bad]))[0] is Verdict.ERROR

    def test_an_unknown_measure_is_an_error(self) -> None:
        verdict, _, reason = check(a_run(), {"reclaim_fraction": ">= 0"})
        assert verdict is Verdict.ERROR
        assert "did you mean reclaimed_fraction" in reason


class TestOtherWords:
    def test_a_measurement_without_expectations_is_done(self) -> None:
        assert check(a_run(), {})[0] is Verdict.DONE

    @pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.MISS, Verdict.SKIP])
    def test_a_run_that_broke_says_what_its_error_says(self, verdict: Verdict) -> None:
        broke = Broke(30.0, "SshError", verdict, "the connection broke off", "look at console.log")
        assert check(a_run(last=[broke])) == (
            verdict,
            None,
            "SshError: the connection broke off (look at console.log)",
        )

    def test_a_scenario_that_did_not_happen_as_written_is_an_error(self) -> None:
        verdict, cause, reason = check(a_run(), {"block_bytes": "== 64KiB"})
        assert (verdict, cause) == (Verdict.ERROR, None)
        assert "block_bytes 2MiB, expected == 64KiB" in reason


class TestDamage:
    """Proof of damage fails a run whatever else it says."""

    LOSSY = healthy().blocks(18, 1, G.HELD, S.ABSENT)

    @pytest.mark.parametrize("expectations", [RECLAIM, {}], ids=["expected", "nothing expected"])
    def test_a_changed_pattern_is_data_loss(self, expectations: dict[str, str]) -> None:
        verdict, cause, reason = check(a_run(verified=3), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)
        assert "3 of the pages the churn tool held" in reason
        assert "page 7: wrong" in reason

    def test_held_pages_gone_from_the_host_are_data_loss(self) -> None:
        verdict, cause, reason = check(run_on(self.LOSSY))
        assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)
        assert reason == (
            "2MiB that the churn tool had written and held were gone from the host at audit "
            "'final' (first at PFN 0x2400)"
        )

    def test_memory_that_went_away_under_the_guest_is_suspected_loss(self) -> None:
        guest = healthy().blocks(0, 1, G.USED, S.ABSENT)
        report = guest.report(earlier=Guest().host == S.RESIDENT)
        events = a_run(audits=[guest.audited(report=report)])
        verdict, cause, reason = check(events, {"suspect_bytes": "== 0"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)
        assert "2MiB the guest uses were on the host at an earlier audit" in reason

    @pytest.mark.parametrize(
        ("severity", "cause"), [("crash", Cause.GUEST_CRASH), ("hang", Cause.GUEST_HANG)]
    )
    def test_a_crash_or_hang_fails_without_an_expectation(
        self, severity: Any, cause: Cause
    ) -> None:
        found = replace(crash(), severity=severity)
        verdict, seen, reason = check(a_run(earlier=[found]), {})
        assert (verdict, seen) == (Verdict.FAIL, cause)
        assert "Kernel panic" in reason

    @pytest.mark.parametrize(
        "found", [crash(), ChurnVerified(30.0, MIB, 1), LOSSY.audited()], ids=lambda e: e.kind
    )
    def test_it_wins_over_what_broke_later(self, found: Event) -> None:
        broke = Broke(40.0, "SshError", Verdict.MISS, "the connection broke off", "")
        assert check(a_run(earlier=[found], last=[broke]))[0] is Verdict.FAIL

    def test_lost_data_comes_before_the_crash_it_brings(self) -> None:
        events = a_run(earlier=[crash()], verified=1)
        assert check(events)[1] is Cause.DATA_LOSS

    def test_noise_excuses_no_damage(self) -> None:
        loud = noise(55.0, mem_available=MIB)
        assert check(a_run(verified=1, noise_as=loud))[1] is Cause.DATA_LOSS


class TestBeforeTheFirstStep:
    """QEMU's TCG may crash a guest on its own; that says nothing about reporting."""

    def events(self, accel: str) -> list[Event]:
        boot = PhaseStarted(0.0, "boot", "bookworm")
        broke = Broke(6.0, "SshError", Verdict.MISS, "the connection broke off", "")
        return [boot, ready(accel=accel), crash(5.0), PhaseStarted(6.0, "settle"), broke]

    def test_under_tcg_it_is_a_miss(self) -> None:
        verdict, cause, reason = check(self.events("tcg"))
        assert (verdict, cause) == (Verdict.MISS, None)
        assert "before the scenario's first step" in reason

    def test_during_boot_it_is_a_miss(self) -> None:
        assert check([PhaseStarted(0.0, "boot"), crash(2.0)])[0] is Verdict.MISS

    def test_under_kvm_it_is_the_kernels(self) -> None:
        assert check(self.events("kvm"))[1] is Cause.GUEST_CRASH

    def test_after_the_first_step_it_is_a_failure(self) -> None:
        events = self.events("tcg")
        events[2], events[3] = events[3], events[2]
        assert check(events)[1] is Cause.GUEST_CRASH


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
            "discards, so the host ignored them (first at PFN 0x3400): "
        )
        assert reason.endswith("; 1 more expectation failed")

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
        audit = replace(audit, discards=replace(audit.discards, failed_bytes=4 * MIB))
        verdict, cause, reason = check(a_run(audits=[audit]), {"failed_discard_bytes": "== 0"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "QEMU failed to discard 4MiB" in reason

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

    def test_unmapped_but_still_in_the_file(self) -> None:
        before = freed(before=mapping(216 * MIB, anonymous=0, file_blocks=216 * MIB))
        after = healthy().audited(mapping=mapping(52 * MIB, anonymous=0, file_blocks=216 * MIB))
        events = a_run(freed_as=before, settled_as=settled(held=216 * MIB), audits=[after])
        verdict, cause, reason = check(events)
        assert (verdict, cause) == (Verdict.FAIL, Cause.STILL_CHARGED)
        assert "160MiB left QEMU's mapping but not the file" in reason

    def test_swapped_out_instead_of_given_back(self) -> None:
        """With the host at ease, guest memory in swap was put there by whoever discards."""
        guest = healthy().blocks(26, 80, G.REPORTED, S.SWAPPED)
        verdict, cause, reason = check(run_on(guest, noise_as=noise(55.0, pswpout=40960)))
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

    def test_what_a_settle_alone_can_tell(self) -> None:
        idle = settled(outcome=SettleOutcome.IDLE, held=172 * MIB, remaining=120 * MIB)
        assert check(a_run(settled_as=idle, audits=()), FRACTION)[1] is Cause.NOT_REPORTED
        drained = settled(held=172 * MIB)
        verdict, cause, reason = check(a_run(settled_as=drained, audits=()), FRACTION)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
        assert "no audit was taken" in reason

    def test_too_slow(self) -> None:
        slow = settled(seconds=48.0)
        verdict, cause, reason = check(a_run(settled_as=slow), {"settle_seconds": "<= 40"})
        assert (verdict, cause) == (Verdict.FAIL, Cause.NOT_SETTLED)
        assert "settle_seconds 48.0 s, expected <= 40.0 s" in reason


class TestGuestRetained:
    """Nothing to blame but the guest: it keeps the memory, and the reason is named."""

    USES = healthy().blocks(26, 60, G.USED, S.RESIDENT)

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
            "84MiB are free in the guest but in blocks below 2MiB, the reporting order 9: "
            "fragmentation"
        )

    def test_a_zone_under_its_watermark(self) -> None:
        guest = healthy().blocks(26, 60, G.FREE, S.RESIDENT)
        guest.zones = (zone(free=700 + (32 << 9)),)
        assert "under their watermark" in self.judged(guest)

    def test_memory_the_guest_simply_uses(self) -> None:
        reason = self.judged(self.guest(), Cached=6)
        assert "page cache holds 6MiB" in reason
        assert "which explains 6MiB of the 108MiB missing; the guest uses the rest" in reason

    def test_residue_that_grows_over_the_rounds(self) -> None:
        first: list[Event] = [freed(12.0), settled(13.0), ChurnHeld(14.0, FREED, 1.0)]
        guest = healthy().blocks(26, 20, G.USED, S.RESIDENT)
        guest.meminfo = {"Cached": 40 * MIB}
        _, cause, reason = check(
            run_on(guest, earlier=first), {"residue_growth_bytes": "<= batch_bytes / 4"}
        )
        assert cause is Cause.GUEST_RETAINED
        assert "page cache holds 40MiB" in reason

    def test_too_much_retained(self) -> None:
        expectations = {"retained_free_bytes": "<= 64MiB"}
        verdict, cause, _ = check(run_on(healthy().fragments(26, 80)), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)


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


class TestNoise:
    """A host busy with its own memory excuses what it can have brought about, and no more."""

    RETAINED = healthy().blocks(26, 60, G.USED, S.RESIDENT)

    @pytest.mark.parametrize(
        ("loud", "words"),
        [
            (noise(55.0, psi_memory_some_us=6_000_000), "waited for memory in 6.0 s of 51.0 s"),
            (noise(55.0, mem_available=100 * MIB), "only 100MiB of memory available"),
        ],
    )
    def test_a_host_short_of_memory(self, loud: Event, words: str) -> None:
        verdict, cause, reason = check(run_on(self.RETAINED, noise_as=loud), FRACTION)
        assert (verdict, cause) == (Verdict.MISS, None)
        assert "may be the host's doing" in reason
        assert words in reason

    @pytest.mark.parametrize(
        "quiet",
        [
            noise(55.0, psi_memory_some_us=4_000_000),
            noise(55.0, pswpout=5000),
            noise(55.0, pgsteal_kswapd=5000, thp_collapse=100),
            noise(55.0, psi_memory_some_us=None, pswpout=None, pgsteal_kswapd=None),
        ],
    )
    def test_a_host_that_is_merely_alive(self, quiet: Event) -> None:
        events = run_on(self.RETAINED, noise_as=quiet)
        assert check(events, FRACTION)[1] is Cause.GUEST_RETAINED

    @pytest.mark.parametrize("sign", ["pgsteal_kswapd", "psi_memory_some_us"])
    def test_a_host_that_swapped_the_guest_out(self, sign: str) -> None:
        loud = noise(55.0, pswpout=1000, **{sign: 900})
        guest = healthy().blocks(2, 1, G.USED, S.SWAPPED)
        verdict, _, reason = check(run_on(guest, noise_as=loud))
        assert verdict is Verdict.MISS, "not even a run whose expectations hold"
        assert "2MiB of guest memory lie in its swap" in reason

    def test_pressure_does_not_keep_reported_pages(self) -> None:
        loud = noise(55.0, mem_available=100 * MIB)
        assert check(run_on(swallowed(), noise_as=loud))[1] is Cause.ACKED_NOT_DISCARDED

    @pytest.mark.parametrize(
        ("collapses", "verdict"), [(80, Verdict.MISS), (79, Verdict.FAIL), (0, Verdict.FAIL)]
    )
    def test_khugepaged_can_bring_back_only_so_much(self, collapses: int, verdict: Verdict) -> None:
        loud = noise(55.0, thp_collapse=collapses)
        assert check(run_on(swallowed(80), noise_as=loud))[0] is verdict

    def test_a_failure_noise_cannot_explain_stands_beside_one_it_can(self) -> None:
        loud = noise(55.0, mem_available=100 * MIB)
        events = run_on(self.RETAINED, noise_as=loud, earlier=[warning()])
        assert check(events)[1] is Cause.KERNEL_WARNING


class TestStepChecks:
    """Checks of one audit are judged over what was known at that audit."""

    def test_they_hold_at_their_moment(self) -> None:
        held = healthy().blocks(26, 80, G.USED, S.RESIDENT)
        early = held.audited(15.0, "held", checks=("reported_bytes: == 44MiB",))
        judged = judge(a_run(earlier=[early]), RECLAIM)
        assert judged.verdict is Verdict.PASS
        assert judged.reason == "all 5 expectations hold"

    def test_they_are_enough_to_pass(self) -> None:
        final = healthy().audited(checks=("reported_resident_bytes: == 0",))
        assert check(a_run(audits=[final]), {})[0] is Verdict.PASS

    def test_a_failure_names_its_audit_and_is_diagnosed_there(self) -> None:
        early = swallowed().audited(15.0, "held", checks=("reported_resident_bytes: == 0",))
        verdict, cause, reason = check(a_run(earlier=[early]))
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "at audit 'held': reported_resident_bytes 160MiB, expected == 0B" in reason

    def test_what_cannot_be_judged_there_is_a_miss(self) -> None:
        early = healthy().audited(15.0, "held", checks=("reclaimed_fraction: >= 0.95",))
        verdict, _, reason = check(a_run(earlier=[early]))
        assert verdict is Verdict.MISS
        assert reason.startswith("at audit 'held': reclaimed_fraction >= 0.95 cannot be judged")


def test_of_several_failures_the_gravest_names_the_run() -> None:
    events = run_on(swallowed(), earlier=[warning()])
    _, cause, reason = check(events, {"console_findings": "== 0"} | RECLAIM)
    assert cause is Cause.ACKED_NOT_DISCARDED
    assert reason.endswith("; 2 more expectations failed")


def test_a_run_is_judged_alike_from_its_own_record() -> None:
    """Nothing but the events goes in, so a judgement can be made again from results.jsonl."""
    events = run_on(swallowed())
    first = judge(events, RECLAIM)
    assert isinstance(first, Judged)
    assert judge([*events, first], RECLAIM) == first


def test_reasons_are_single_sentences_of_readable_length() -> None:
    for events in (run_on(swallowed()), run_on(TestGuestRetained.USES), a_run(audits=())):
        reason = check(events)[2]
        assert "\n" not in reason
        assert 20 < len(reason) < 400


def test_a_page_is_the_smallest_loss() -> None:
    guest = healthy()
    guest.host[18 * 512] = S.ABSENT
    judged = judge(run_on(guest), RECLAIM)
    assert judged.measures["held_absent_bytes"] == PAGE_SIZE
    assert judged.cause is Cause.DATA_LOSS
