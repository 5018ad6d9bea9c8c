# SPDX-License-Identifier: Apache-2.0
"""The verdict of a run: every word, and never a PASS by default."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import (
    CONTROL,
    FRACTION,
    RECLAIM,
    G,
    S,
    check,
    crash,
    held_after,
    judged,
    run_on,
    swallowed,
    warning,
)
from run_builders import (
    BLOCK,
    FREED,
    Guest,
    a_run,
    freed,
    healthy,
    mapping,
    noise,
    ready,
    started,
)

from harness.kernel.pages import GuestState
from harness.machine.console import ConsoleScanner
from harness.record.asked import INVARIANTS
from harness.record.events import (
    Audited,
    Broke,
    ChurnAsked,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    Event,
    GuestMoved,
    GuestReady,
    Judged,
    Measured,
    PhaseStarted,
    StepsDone,
)
from harness.record.facts import Cause, DiscardTotals, Verdict
from harness.units import GIB, MIB, PAGE_SIZE

CONSOLES = Path(__file__).parents[2] / "data" / "console"


class TestPass:
    def test_a_healthy_run_passes(self) -> None:
        found = judged(a_run(), RECLAIM, t=61.0)
        assert (found.verdict, found.cause, found.t) == (Verdict.PASS, None, 61.0)
        assert found.measures["reported_resident_bytes"] == 0

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
        assert check(events, {}, reporting_wanted=True)[1] is Cause.FEATURE_OFF, "nor is it DONE"


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
            (
                "a part of what was held was not verified",
                a_run(earlier=[ChurnVerified(16.0, MIB, 0, unchecked=MIB)]),
            ),
            ("nothing was recorded", []),
            ("nothing was freed", [*started(), healthy().audited(), StepsDone(9.0)]),
        ],
    )
    def test_it_is_a_miss(self, what: str, events: list[Event]) -> None:
        verdict, cause, reason = check(events)
        assert (verdict, cause) == (Verdict.MISS, None), what
        assert reason

    def test_pages_alone_do_not_say_that_a_guest_ran(self) -> None:
        events = [event for event in a_run() if not isinstance(event, GuestReady)]
        assert check(events, {"reported_resident_bytes": "== 0"})[0] is Verdict.MISS

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

    def test_a_ledger_without_a_source_is_a_miss_that_says_why(self) -> None:
        guest = ready(untraced="no such event")
        blind = replace(healthy().audited(), discards=None)
        events = a_run(ready_as=guest, freed_as=freed(discards_before=None), audits=[blind])
        expect = {"discarded_bytes": "== 0"}
        verdict, _, reason = check(events, expect)
        assert verdict is Verdict.MISS
        assert "the discards of this QEMU cannot be traced: no such event" in reason
        assert check(events, {"reported_resident_bytes": "== 0"})[0] is Verdict.PASS
        assert "discarded_bytes" not in judged(events, expect).measures

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
            "the connection broke off (look at console.log)",
        )

    @pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.SKIP])
    def test_a_warning_is_news_even_where_the_rest_could_not_run(self, verdict: Verdict) -> None:
        broke = Broke(30.0, "PreconditionError", verdict, "no hugetlb pool", "make one")
        found = check(a_run(earlier=[warning()], last=[broke]), {"console_findings": "== 0"})
        assert found[:2] == (Verdict.FAIL, Cause.KERNEL_WARNING)
        assert found[2].endswith("; after that no hugetlb pool")

    def test_a_precondition_that_is_absent_hides_no_audit_before_it(self) -> None:
        bad = swallowed().audited(45.0, checks=("reported_resident_bytes: == 0",))
        broke = Broke(50.0, "PreconditionError", Verdict.SKIP, "no hugetlb pool", "make one")
        found = check(a_run(audits=[bad], last=[broke]))
        assert found[:2] == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)

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
        assert "3 of the pages that the churn tool held" in reason
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
        assert "2MiB that the guest uses were on the host at an earlier audit" in reason

    def test_used_and_absent_without_a_history_may_never_have_been_touched(self) -> None:
        events = run_on(healthy().blocks(0, 1, G.USED, S.ABSENT))
        _, cause, reason = check(events, {"used_absent_bytes": "<= 1MiB"})
        assert cause is Cause.DATA_LOSS
        assert "never touched, or lost" in reason

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

    def test_a_crash_after_a_wrong_use_of_memory_names_that_too(self) -> None:
        misuse = replace(crash(), severity="warning", title="BUG: KASAN: use-after-free in f")
        kind = check(a_run(earlier=[misuse, crash()]), {})
        assert kind[1] is Cause.GUEST_CRASH
        assert kind[2].endswith(f"{crash().title}, after BUG: KASAN: use-after-free in f")
        other = replace(misuse, title="WARNING: a.c:1 in f")
        for earlier in ([crash(), misuse], [other, crash()]):
            assert "after" not in check(a_run(earlier=earlier), {})[2]

    @pytest.mark.parametrize(
        "found", [crash(), ChurnVerified(30.0, MIB, 1), LOSSY.audited()], ids=lambda e: e.kind
    )
    def test_it_wins_over_what_broke_later(self, found: Event) -> None:
        broke = Broke(40.0, "SshError", Verdict.MISS, "the connection broke off", "")
        assert check(a_run(earlier=[found], last=[broke]))[0] is Verdict.FAIL

    def test_damage_to_the_tools_own_memory_is_lost_data(self) -> None:
        """Though it could compare no page with its pattern, for want of what it lost."""
        lost = ChurnVerified(16.0, 0, 0, ("entries are damaged",), unchecked=MIB, damaged=256)
        verdict, cause, reason = check(a_run(earlier=[lost]))
        assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)
        assert reason.endswith("entries are damaged")

    @pytest.mark.parametrize(
        ("accel", "executed", "verdict"),
        [
            ("tcg", "eb", Verdict.MISS),
            ("kvm", "eb", Verdict.FAIL),
            ("tcg", "cc", Verdict.FAIL),
        ],
        ids=["taken out again", "on a real CPU", "still there"],
    )
    def test_a_breakpoint_that_is_no_longer_in_the_code_is_of_tcgs_making(
        self, accel: str, executed: str, verdict: Verdict
    ) -> None:
        console = (CONSOLES / "stale-breakpoint.log").read_bytes()
        scanner = ConsoleScanner()
        scanner.feed(console.replace(b" eb <05> ", f" {executed} <05> ".encode()))
        scanner.finish()
        first, *_rest = scanner.findings
        crashed = ConsoleFinding(30.0, "crash", first.title, first.text)
        found, cause, reason = check(a_run(ready_as=ready(accel=accel), earlier=[crashed]))
        assert found is verdict
        assert "int3 in sched_clock_idle_wakeup_event" in reason
        assert cause is (Cause.GUEST_CRASH if verdict is Verdict.FAIL else None)

    def test_what_an_audit_had_seen_before_such_a_crash_still_fails(self) -> None:
        console = (CONSOLES / "stale-breakpoint.log").read_bytes()
        scanner = ConsoleScanner()
        scanner.feed(console)
        scanner.finish()
        crashed = ConsoleFinding(60.0, "crash", scanner.findings[0].title, scanner.findings[0].text)
        broke = Broke(61.0, "QemuGoneError", Verdict.MISS, "QEMU exited (0)", "")
        *events, _done = run_on(swallowed())
        found, cause, reason = check([*events, crashed, broke], {}, invariants=INVARIANTS)
        assert (found, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "160MiB the guest reported are still resident" in reason

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


class TestWhatBrokeAfterAWarning:
    """A process the OOM killer has taken ends no step: the warning is the verdict, not the end."""

    BROKE = Broke(31.0, "GuestError", Verdict.ERROR, "the busy process was killed", "")
    OOM = ConsoleFinding(30.0, "warning", "OOM kill of fpr-guest", "...")

    def test_is_the_kernels_where_the_scenario_forbids_warnings(self) -> None:
        verdict, cause, reason = check([*started(), self.OOM, self.BROKE])
        assert (verdict, cause) == (Verdict.FAIL, Cause.KERNEL_WARNING)
        assert "OOM kill of fpr-guest; after that the busy process was killed" in reason

    @pytest.mark.parametrize("left", [-MIB, 16 * MIB])
    def test_is_the_scenarios_where_it_asked_for_all_that_there_was(self, left: int) -> None:
        asked = ChurnAsked(29.0, 128 * MIB, 128 * MIB + left)
        verdict, cause, reason = check([*started(), asked, self.OOM, self.BROKE])
        assert (verdict, cause) == (Verdict.ERROR, None)
        assert reason.startswith("a churn of 128MiB leaves too little of the ")
        assert "OOM kill of fpr-guest; after that the busy process was killed" in reason

    def test_is_the_kernels_where_enough_was_left_or_more_was_wrong(self) -> None:
        roomy, all_ = (ChurnAsked(29.0, 128 * MIB, size * MIB) for size in (145, 128))
        other = ConsoleFinding(28.0, "warning", "BUG: Bad page state", "...")
        given_back = freed(29.5, still_held=0)
        again = ready(t=29.5)
        for before in ([roomy], [all_, other], [all_, given_back], [all_, again]):
            assert check([*started(), *before, self.OOM, self.BROKE])[1] is Cause.KERNEL_WARNING

    def test_hides_nothing_that_an_audit_had_found(self) -> None:
        early = swallowed().audited(28.0, "held", checks=("reported_resident_bytes: == 0",))
        asked = ChurnAsked(49.0, 128 * MIB, 128 * MIB)
        last = [asked, replace(self.OOM, t=50.0), replace(self.BROKE, t=51.0)]
        found = judged(run_on(swallowed(), audits=[early], last=last), RECLAIM)
        assert found.cause is Cause.ACKED_NOT_DISCARDED

    def test_is_the_scenarios_where_it_does_not(self) -> None:
        events = [*started(), self.OOM, self.BROKE]
        assert check(events, FRACTION)[0] is Verdict.ERROR
        assert check([*started(), self.BROKE])[0] is Verdict.ERROR

    def test_is_the_infrastructures_where_that_broke(self) -> None:
        gone = replace(self.BROKE, verdict=Verdict.MISS)
        assert check([*started(), self.OOM, gone])[0] is Verdict.MISS


class TestWhatBrokeAfterAnAudit:
    """What an audit had found wrong by its own checks stays so, whatever breaks after it."""

    BROKE = Broke(50.0, "DeadlineError", Verdict.MISS, "waited 20.0 s for the host", "")

    def test_is_what_the_audit_found(self) -> None:
        early = swallowed().audited(45.0, "held", checks=("reported_resident_bytes: == 0",))
        events = run_on(swallowed(), audits=[early], last=[self.BROKE])
        found = judged(events, FRACTION)
        assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert found.reason.endswith("after that waited 20.0 s for the host")
        assert found.failed == ("at audit 'held': reported_resident_bytes 160MiB, expected == 0B",)

    def test_is_what_broke_where_the_audit_found_nothing(self) -> None:
        early = healthy().audited(45.0, "held", checks=("reported_resident_bytes: == 0",))
        events = a_run(audits=[early], last=[self.BROKE])
        assert check(events)[0] is Verdict.MISS

    @pytest.mark.parametrize("moved", [False, True], ids=["at rest", "memory has moved since"])
    def test_is_what_the_last_audit_found_by_an_invariant(self, moved: bool) -> None:
        """A `run` step after it passed its deadline: half of the reports had been swallowed."""
        since = [ChurnHeld(46.0, 4 * MIB, 1.0)] if moved else []
        events = run_on(swallowed(), last=[*since, self.BROKE])
        found = judged(events, FRACTION, invariants=INVARIANTS)
        assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert found.reason.endswith("after that waited 20.0 s for the host")

    def test_is_the_largest_of_equally_grave_failures(self) -> None:
        """A fault from the first discard on: the audit before the free saw 4 MiB of it."""
        early = healthy().blocks(26, 2, G.REPORTED, S.RESIDENT).audited(12.0, "before")
        events = run_on(swallowed(), earlier=[early])
        found = judged(events, FRACTION, invariants=INVARIANTS)
        assert found.reason.startswith("160MiB the guest reported are still resident")

    def test_is_told_beside_a_crash_that_came_after_it(self) -> None:
        events = run_on(swallowed(), last=[crash(46.0), self.BROKE])
        found = judged(events, FRACTION, invariants=INVARIANTS)
        assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.GUEST_CRASH)
        assert found.failed == ("reported_resident_bytes 160MiB, expected == 0B",)

    def test_is_what_broke_where_only_the_whole_run_would_have_shown_it(self) -> None:
        events = run_on(swallowed(), last=[self.BROKE])
        assert check(events, {"reported_resident_bytes": "== 0"})[0] is Verdict.MISS


RESIDENT = {"reported_resident_bytes": "== 0"}


def half_reported(huge_pages: int) -> Guest:
    """Of so many huge pages, all resident, the guest uses one half and has reported the other."""
    guest = replace(healthy(), order=5)
    guest.blocks(26, huge_pages, G.USED, S.RESIDENT)
    for start in range(26 * BLOCK, (26 + huge_pages) * BLOCK, BLOCK):
        guest.states[start + BLOCK // 2 : start + BLOCK] = G.FREE
        guest.states[start + BLOCK // 2] = G.REPORTED
    return guest


class TestNoise:
    """A host busy with its own memory excuses what it can have brought about, and no more."""

    RETAINED = healthy().blocks(26, 60, G.USED, S.RESIDENT)

    @pytest.mark.parametrize(
        ("loud", "words"),
        [
            (noise(55.0, psi_memory_some_us=6_000_000), "waited for memory during 6.0 s of 51.0 s"),
            (
                noise(55.0, mem_available=100 * MIB, pgsteal_kswapd=1),
                "only 100MiB of memory available",
            ),
        ],
    )
    def test_a_host_short_of_memory(self, loud: Event, words: str) -> None:
        verdict, cause, reason = check(run_on(self.RETAINED, noise_as=loud), FRACTION)
        assert (verdict, cause) == (Verdict.MISS, None)
        assert "the host may have caused that" in reason
        assert words in reason

    @pytest.mark.parametrize(
        "quiet",
        [
            noise(55.0, psi_memory_some_us=4_000_000),
            noise(55.0, pswpout=5000),
            noise(55.0, mem_available=100 * MIB),
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
        assert "2MiB of guest memory are in its swap" in reason

    def test_a_scenario_that_limits_qemu_has_asked_for_swap(self) -> None:
        loud = noise(55.0, pswpout=1000, pgsteal_kswapd=900)
        guest = healthy().blocks(2, 1, G.USED, S.SWAPPED)
        events = run_on(guest, noise_as=loud, ready_as=ready(memory_limit=GIB))
        assert check(events)[0] is Verdict.PASS

    def test_guest_memory_that_was_in_swap_all_along_is_no_noise(self) -> None:
        guest = healthy().blocks(2, 1, G.USED, S.SWAPPED)
        events = run_on(guest, noise_as=noise(55.0, pgsteal_kswapd=900))
        assert check(events)[0] is Verdict.PASS

    def test_what_is_lazily_free_goes_by_itself_under_pressure(self) -> None:
        loud = noise(55.0, psi_memory_some_us=6_000_000)
        lazy = {"lazyfree_bytes": ">= 0.9 * freed_bytes"}
        events = a_run(ready_as=ready(discard="free"), noise_as=loud)
        assert check(events, lazy)[0] is Verdict.MISS
        assert check(a_run(ready_as=ready(discard="free")), lazy)[1] is Cause.CONTROL_BROKEN

    @pytest.mark.parametrize(
        ("taken", "verdict"), [(FREED, Verdict.MISS), (FREED // 4, Verdict.FAIL), (0, Verdict.FAIL)]
    )
    def test_what_is_lazily_free_is_taken_by_a_host_that_is_short_of_nothing(
        self, taken: int, verdict: Verdict
    ) -> None:
        """DAMON pages out what nobody uses, with neither kswapd nor a task that waits."""
        loud = noise(55.0, lazyfreed=taken // PAGE_SIZE)
        events = a_run(ready_as=ready(discard="free"), noise_as=loud)
        found, _, reason = check(events, {"reclaimed_bytes": "<= 64MiB"})
        assert found is verdict
        assert ("pglazyfreed" in reason) is (verdict is Verdict.MISS)
        # Where QEMU frees nothing lazily, it was not this guest's.
        assert check(a_run(noise_as=loud), {"reclaimed_bytes": "<= 64MiB"})[0] is Verdict.FAIL

    def test_pressure_does_not_keep_reported_pages(self) -> None:
        loud = noise(55.0, mem_available=100 * MIB)
        assert check(run_on(swallowed(), noise_as=loud))[1] is Cause.ACKED_NOT_DISCARDED

    @pytest.mark.parametrize(
        ("collapses", "verdict"), [(20, Verdict.MISS), (9, Verdict.FAIL), (0, Verdict.FAIL)]
    )
    def test_khugepaged_can_fill_up_only_so_many_huge_pages(
        self, collapses: int, verdict: Verdict
    ) -> None:
        """20 huge pages, of each of which the guest uses a half and has reported the other."""
        loud = noise(55.0, thp_collapse=collapses)
        assert check(run_on(half_reported(20), noise_as=loud), RESIDENT)[0] is verdict

    def test_khugepaged_excuses_no_huge_page_that_was_reported_whole(self) -> None:
        """It fills up what something is left of: every eighth discard swallowed stays a FAIL."""
        loud = noise(55.0, thp_collapse=1000)
        assert check(run_on(swallowed(80), noise_as=loud))[1] is Cause.ACKED_NOT_DISCARDED

    @pytest.mark.parametrize("huge_pages", [0, 1000], ids=["at rest", "busy"])
    def test_khugepaged_excuses_no_balloon_that_the_host_keeps(self, huge_pages: int) -> None:
        guest = healthy().blocks(26, 20, G.OFFLINE, S.RESIDENT)
        events = run_on(guest, noise_as=noise(55.0, thp_collapse=huge_pages))
        found = check(events, {}, invariants=INVARIANTS)
        assert found[:2] == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)

    def test_no_pressure_excuses_what_qemu_took_for_itself(self) -> None:
        loud = noise(55.0, psi_memory_some_us=20_000_000)
        grown = healthy().audited(mapping=mapping(52 * MIB, outside=62 * MIB))
        found = check(run_on(healthy(), audits=[grown], noise_as=loud), {}, invariants=INVARIANTS)
        assert found[:2] == (Verdict.FAIL, Cause.STILL_CHARGED)

    def test_a_balloon_that_a_move_has_filled_is_no_fault_of_the_discards(self) -> None:
        guest = healthy().blocks(26, 20, G.OFFLINE, S.RESIDENT)
        moved = GuestMoved(23.0, "migrated", 1.0)
        found = check(run_on(guest, earlier=[moved]), {}, invariants=INVARIANTS)
        assert found[:2] == (Verdict.FAIL, Cause.STILL_CHARGED)
        assert found[2].startswith("populated by the move: 40MiB in the balloon")

    @pytest.mark.parametrize(
        ("state", "used", "huge", "verdict"),
        [
            (G.OFFLINE, 1, True, Verdict.MISS),
            (G.REPORTED, 1, True, Verdict.MISS),
            (G.OFFLINE, 1, False, Verdict.FAIL),
            (G.REPORTED, 1, False, Verdict.FAIL),
            (G.OFFLINE, 0, True, Verdict.FAIL),
            (G.OFFLINE, 20, True, Verdict.FAIL),
        ],
        ids=[
            "in the balloon",
            "reported",
            "in the balloon, without huge pages",
            "reported, without huge pages",
            "a huge page of which the guest uses no part",
            "too much",
        ],
    )
    def test_a_fault_in_what_was_given_back_fills_a_huge_page(
        self, state: GuestState, used: int, huge: bool, verdict: Verdict
    ) -> None:
        """Seen: 6 of 384 MiB in the balloon after a migration, 1.75 of 299 MiB at order 5."""
        guest = replace(healthy(), order=5).blocks(30, 60, G.FREE, S.ABSENT)
        guest.states[30 * BLOCK : 90 * BLOCK] = state if state is G.OFFLINE else G.FREE
        if state is G.REPORTED:
            guest.states[30 * BLOCK : 90 * BLOCK : BLOCK] = state
        guest.host[30 * BLOCK : (30 + max(1, used)) * BLOCK] = S.RESIDENT
        for start in range(30 * BLOCK, (30 + used) * BLOCK, BLOCK):
            guest.states[start : start + BLOCK // 2] = G.USED
            if state is G.REPORTED:
                guest.states[start + BLOCK // 2] = state
        audit = guest.audited()
        held = audit.mapping.rss
        audit = replace(audit, mapping=mapping(held, anon_huge=held if huge else 0))
        found = check(run_on(guest, audits=[audit]), {}, invariants=INVARIANTS)
        assert found[0] is verdict, found
        if verdict is Verdict.MISS:
            assert "huge pages of the host" in found[2]

    def test_khugepaged_excuses_nothing_that_was_never_discarded(self) -> None:
        guest = half_reported(20)
        guest.discarded = np.zeros(len(guest.host), np.bool_)
        loud = noise(55.0, thp_collapse=1000)
        assert check(run_on(guest, noise_as=loud), RESIDENT)[1] is Cause.ACKED_NOT_DISCARDED

    @pytest.mark.parametrize(
        ("merged", "measure", "verdict"),
        [
            (12 * MIB, "huge_bytes", Verdict.MISS),
            (0, "huge_bytes", Verdict.FAIL),
            (None, "huge_bytes", Verdict.FAIL),
            (12 * MIB, "guest_free_bytes", Verdict.FAIL),
        ],
    )
    def test_ksm_splits_huge_pages_to_merge_and_does_nothing_else(
        self, merged: int | None, measure: str, verdict: Verdict
    ) -> None:
        """Seen: 4 MiB too few in huge pages, on a host that had merged 22 MiB of QEMU's memory."""
        audits = [
            replace(event, mapping=replace(event.mapping, merged=merged))
            if isinstance(event, Audited)
            else event
            for event in a_run()
        ]
        assert check(audits, {measure: ">= 1GiB"})[0] is verdict

    @pytest.mark.parametrize(
        ("merged", "expect", "verdict"),
        [
            (26 * MIB, {"reclaimed_bytes": "<= 1MiB"}, Verdict.MISS),
            (0, {"reclaimed_bytes": "<= 1MiB"}, Verdict.FAIL),
            (26 * MIB, {"discarded_bytes": "== 0"}, Verdict.FAIL),
            (26 * MIB, {"reclaimed_bytes": "<= 1MiB", "discarded_bytes": "== 0"}, Verdict.FAIL),
        ],
        ids=["merged", "nothing merged", "ksm discards nothing", "not all explained"],
    )
    def test_what_came_back_may_be_zeros_in_huge_pages_that_ksm_split(
        self, merged: int, expect: dict[str, str], verdict: Verdict
    ) -> None:
        """Seen with the driver unbound: 22 MiB of 512 came back, and KSM had merged 26 MiB."""
        events = [
            replace(event, mapping=replace(event.mapping, merged=merged))
            if isinstance(event, Audited)
            else event
            for event in a_run()
        ]
        assert check(events, expect)[0] is verdict

    @pytest.mark.parametrize(("rate", "verdict"), [(0.21, Verdict.MISS), (0.97, Verdict.FAIL)])
    def test_a_guest_whose_clock_stood_still_had_no_time_to_report(
        self, rate: float, verdict: Verdict
    ) -> None:
        unreported = healthy().blocks(26, 60, G.FREE, S.RESIDENT)
        waited = replace(held_after(unreported), clock_rate=rate)
        found, _cause, reason = check(run_on(unreported, settled_as=waited), FRACTION)
        assert found is verdict
        assert ("the guest's clock advanced by only 21%" in reason) is (verdict is Verdict.MISS)

    def test_a_virtual_clock_that_is_slow_excuses_nothing(self) -> None:
        """It counts instructions, and the guest has as many as it needs."""
        unreported = healthy().blocks(26, 60, G.FREE, S.RESIDENT)
        waited = replace(held_after(unreported), clock_rate=0.21)
        events = [
            replace(event, clock="virtual") if isinstance(event, GuestReady) else event
            for event in run_on(unreported, settled_as=waited)
        ]
        assert check(events, FRACTION)[0] is Verdict.FAIL

    def test_a_failure_noise_cannot_explain_stands_beside_one_it_can(self) -> None:
        loud = noise(55.0, mem_available=100 * MIB, pgsteal_kswapd=1)
        events = run_on(self.RETAINED, noise_as=loud, earlier=[warning()])
        assert check(events)[1] is Cause.KERNEL_WARNING


class TestStepChecks:
    """Checks of one audit are judged over what was known at that audit."""

    def test_they_hold_at_their_moment(self) -> None:
        held = healthy().blocks(26, 80, G.USED, S.RESIDENT)
        checks, then = ("reported_bytes: == 44MiB",), DiscardTotals(22, 44 * MIB, 0, 0)
        early = held.audited(15.0, "held", checks=checks, discards=then)
        found = judged(a_run(earlier=[early]), RECLAIM)
        assert found.verdict is Verdict.PASS
        assert found.reason == "all 5 expectations hold"

    def test_they_are_enough_to_pass(self) -> None:
        final = healthy().audited(checks=("reported_resident_bytes: == 0",))
        assert check(a_run(audits=[final]), {})[0] is Verdict.PASS

    def test_a_failure_names_its_audit_and_is_diagnosed_there(self) -> None:
        early = swallowed().audited(15.0, "held", checks=("reported_resident_bytes: == 0",))
        verdict, cause, reason = check(a_run(earlier=[early]))
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "at audit 'held': reported_resident_bytes 160MiB, expected == 0B" in reason

    def test_so_is_one_of_what_a_measure_was_at_an_audit(self) -> None:
        early = swallowed().audited(15.0, "held")
        expectations = {"held.reported_resident_bytes": "== 0"}
        verdict, cause, reason = check(a_run(earlier=[early]), expectations)
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert "held.reported_resident_bytes 160MiB, expected == 0B" in reason

    def test_what_cannot_be_judged_there_is_a_miss(self) -> None:
        early = healthy().audited(15.0, "held", checks=("reclaimed_fraction: >= 0.95",))
        verdict, _, reason = check(a_run(earlier=[early]))
        assert verdict is Verdict.MISS
        assert reason.startswith("at audit 'held': reclaimed_fraction >= 0.95 cannot be judged")


def test_of_several_failures_the_gravest_names_the_run() -> None:
    events = run_on(swallowed(), earlier=[warning()])
    found = judged(events, {"console_findings": "== 0"} | RECLAIM)
    assert found.cause is Cause.ACKED_NOT_DISCARDED
    assert found.reason.endswith("; also failed: console_findings, reported_resident_bytes")


def test_a_warning_of_the_code_that_reports_names_what_it_explains() -> None:
    """It comes before what is not reported, and before warnings of others."""
    trace = "RIP: 0010:page_reporting_process+0x1a/0x2b [kernel]"
    ours = ConsoleFinding(30.0, "warning", "WARNING: at mm/page_reporting.c:150", trace)
    unreported = healthy().blocks(26, 80, G.FREE, S.RESIDENT)
    expect = {"console_findings": "== 0"} | RECLAIM
    found = judged(run_on(unreported, earlier=[warning(), ours]), expect)
    assert found.cause is Cause.KERNEL_WARNING
    assert "mm/page_reporting.c:150" in found.reason
    assert "also failed: reclaimed_fraction" in found.reason
    assert judged(run_on(unreported, earlier=[warning()]), expect).cause is Cause.NOT_REPORTED


@pytest.mark.parametrize(
    "text",
    [
        "BUG: Bad page state in process fpr-guest  pfn:02600",
        "mm/pgtable-generic.c:39: bad pud 0000000064cf4a3a(481a75000007bc1f)",
        "pagealloc: memory corruption",
    ],
)
def test_damaged_pages_come_before_what_the_guests_counters_say_then(text: str) -> None:
    damage = ConsoleFinding(30.0, "warning", text, text)
    retained = healthy().blocks(26, 80, G.USED, S.RESIDENT)
    expect = {"console_findings": "== 0"} | RECLAIM
    assert judged(run_on(retained, earlier=[damage]), expect).cause is Cause.KERNEL_WARNING
    assert judged(run_on(retained, earlier=[warning()]), expect).cause is Cause.GUEST_RETAINED


def test_a_guest_that_marks_no_block_it_reports_is_told_so() -> None:
    """All comes back, and is reported again in every pass."""
    unmarked = healthy().blocks(26, 102, G.FREE, S.ABSENT)
    found = judged(run_on(unmarked), {"reported_bytes": "> 0"})
    assert found.cause is Cause.OVERHEAD
    assert "marks no block as reported" in found.reason


def test_every_failure_is_told_with_its_figures() -> None:
    held = swallowed().audited(45.0, "held", checks=("reported_resident_bytes: == 0",))
    events = run_on(swallowed(), earlier=[held])
    found = judged(events, {"reported_resident_bytes": "== 0", "rounds": "== 1"})
    assert found.failed == (
        "at audit 'held': reported_resident_bytes 160MiB, expected == 0B",
        "reported_resident_bytes 160MiB, expected == 0B",
    )
    assert found.reason.endswith("; also failed: reported_resident_bytes")
    assert judged(a_run(), RECLAIM).failed == ()


def test_a_run_is_judged_alike_from_its_own_record() -> None:
    """Nothing but the events goes in, so a judgement can be made again from results.jsonl."""
    events = run_on(swallowed())
    first = judged(events, RECLAIM)
    assert isinstance(first, Judged)
    assert judged([*events, first], RECLAIM) == first


def test_reasons_are_single_sentences_of_readable_length() -> None:
    for events in (run_on(swallowed()), run_on(TestNoise.RETAINED), a_run(audits=())):
        reason = check(events)[2]
        assert "\n" not in reason
        assert 20 < len(reason) < 400


def test_a_page_is_the_smallest_loss() -> None:
    guest = healthy()
    guest.host[18 * 512] = S.ABSENT
    found = judged(run_on(guest), RECLAIM)
    assert found.measures["held_absent_bytes"] == PAGE_SIZE
    assert found.cause is Cause.DATA_LOSS


class TestAnswer:
    """What is shown beside the verdict: the measures that answer the scenario's question."""

    def test_measures_by_name_and_as_they_were_at_an_audit(self) -> None:
        early = swallowed().audited(15.0, "early")
        names = ("settle_seconds", "early.reported_resident_bytes", "reported_resident_bytes")
        assert judged(a_run(earlier=[early]), RECLAIM, answer=names).answer == {
            "settle_seconds": 16.0,
            "early.reported_resident_bytes": 160 * MIB,
            "reported_resident_bytes": 0,
        }

    def test_what_was_not_measured_is_absent(self) -> None:
        assert judged(a_run(), RECLAIM, answer=("sleeps", "early.held_bytes")).answer == {}

    def test_of_a_measurement_it_is_all_that_its_steps_took(self) -> None:
        events = a_run(earlier=[Measured(15.0, "apples", 7)])
        assert judged(events, {}).answer == {"apples": 7}
        assert judged(events, RECLAIM).answer == {}
