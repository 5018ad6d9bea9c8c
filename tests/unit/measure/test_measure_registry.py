# SPDX-License-Identifier: Apache-2.0
"""The registry: every measure has its unit, its words, and a cause in both directions."""

from dataclasses import replace

import pytest
from judging import check, run_on, swallowed
from run_builders import a_run, every_step, healthy, mapping, pressed, ready, sampled, settled, zone

from harness.measure.measures import (
    AUDIT_MEASURES,
    FAMILIES,
    HOST_MEASURES,
    MEASURES,
    measure,
    needs_audit,
    registered,
    unit_of,
)
from harness.measure.terms import Family, Measure, Rule, Unit
from harness.record.events import Event, Measured, StepsDone
from harness.record.facts import Cause, Verdict
from harness.record.folding import fold
from harness.units import MIB

EVERY: list[Measure | Family] = [*MEASURES.values(), *FAMILIES]

PRECONDITIONS = {
    "ballooned_bytes", "batch_bytes", "block_bytes", "boots", "freed_bytes", "memory_bytes",
    "moves", "order_read", "pass_seconds", "plugged_bytes", "raced_bytes", "rounds", "sleeps",
    "unslept",
}  # fmt: skip
"""What the scenario itself did, and not how memory fared: too little and too much are both its own
doing."""


def run_with_everything() -> list[Event]:
    """A run in which every measure and a member of every family is taken."""
    pressure = pressed(45.0, before=52 * MIB, after=50 * MIB)
    slow = settled(zone_t90={"node0/DMA32": 4.0})
    first = a_run(earlier=[healthy().audited(15.0, "held"), pressure], settled_as=slow, last=())
    last = healthy().audited()
    last = replace(
        last,
        mapping=mapping(52 * MIB, file_blocks=4096, cgroup_current=5, merged=0),
        counters=replace(last.counters, meminfo={"MemFree": 7}),
    )
    steps = every_step()
    again = [*steps[-2:-1], *sampled(), steps[-1]]
    return [*first, *steps, *a_run(audits=[last, last])[5:], *again, StepsDone(99.0)]


TAKEN = measure(fold(run_with_everything()))


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
class TestEveryMeasure:
    def name(self, each: Measure | Family) -> str:
        """Its name, or that of a member."""
        if isinstance(each, Measure):
            return each.name
        return next(name for name in TAKEN if each.has(name))

    @pytest.mark.parametrize("too", ["low", "high"])
    def test_out_of_bounds_has_a_cause(self, each: Measure | Family, too: str) -> None:
        """Only a precondition of the scenario's own ends as ERROR, with a sentence that says so."""
        name = self.name(each)
        value = TAKEN[name]
        condition = f"> {value + 1}" if too == "low" else f"< 0 - {abs(value) + 1}"
        verdict, cause, reason = check(run_with_everything(), {name: condition})
        means = each.means_when_low if too == "low" else each.means_when_high
        if means.rule is Rule.NOT_AS_WRITTEN:
            assert (verdict, cause) == (Verdict.ERROR, None)
            assert reason.startswith(f"{means.words}: {name} ")
        elif means.rule is Rule.BLIND:
            assert (verdict, cause) == (Verdict.MISS, None)
        else:
            assert verdict is Verdict.FAIL, reason
            assert isinstance(cause, Cause)
        assert f"{name} " in reason or cause is Cause.KERNEL_WARNING

    def test_too_much_is_a_precondition_only_where_the_scenario_set_it_up(
        self, each: Measure | Family
    ) -> None:
        both = {each.means_when_low.rule, each.means_when_high.rule} == {Rule.NOT_AS_WRITTEN}
        assert both is (each.name in PRECONDITIONS)

    def test_it_has_words_and_the_unit_of_its_ending(self, each: Measure | Family) -> None:
        assert each.meaning
        assert each.meaning[-1] not in ".,"
        assert unit_of(self.name(each)) is each.unit
        endings = {
            "_bytes": Unit.BYTES,
            "_seconds": Unit.SECONDS,
            "_fraction": Unit.FRACTION,
            "_ratio": Unit.RATIO,
            "_pages": Unit.PAGES,
            "_per_second": Unit.PER_SECOND,
            "_gib_minutes": Unit.GIB_MINUTES,
        }
        wanted = next((u for end, u in endings.items() if each.name.endswith(end)), Unit.COUNT)
        assert each.unit is wanted

    def test_rules_in_a_measures_own_words_have_some(self, each: Measure | Family) -> None:
        own = {
            Rule.KEPT,
            Rule.STILL_CHARGED,
            Rule.LAZY_UNTIL_PRESSED,
            Rule.NOT_REPORTED,
            Rule.CONTROL,
            Rule.DAMAGE,
            Rule.MISCOUNTED,
            Rule.OVERHEAD,
            Rule.NOT_AS_WRITTEN,
        }
        for means in (each.means_when_low, each.means_when_high):
            assert bool(means.words) is (means.rule in own)


def test_the_run_has_taken_every_measure_and_every_name_is_known() -> None:
    assert set(MEASURES) <= set(TAKEN)
    assert all(registered(name) is not None for name in TAKEN)


def test_what_only_an_audit_takes() -> None:
    assert HOST_MEASURES < AUDIT_MEASURES
    assert not AUDIT_MEASURES & set(measure(fold(a_run(audits=()))))
    assert needs_audit("node0_returned_fraction"), "families too"
    assert not needs_audit("node0_DMA32_t90_seconds")
    assert not needs_audit("apples")


def test_the_unit_of_a_number_of_the_scenarios_own_is_that_of_its_ending() -> None:
    assert unit_of("apples") is Unit.COUNT
    assert unit_of("period_1s_discarded_bytes") is Unit.BYTES
    assert unit_of("before.held_bytes") is Unit.BYTES


@pytest.mark.parametrize("name", ["console_findings", "node0_returned_fraction", "freed_bytes"])
def test_a_number_of_the_scenarios_own_cannot_pass_for_a_measure(name: str) -> None:
    events = [*run_on(swallowed())[:-1], Measured(59.0, name, 12345.0), StepsDone(60.0)]
    assert measure(fold(events))[name] != 12345.0


def test_nor_for_one_that_was_not_taken() -> None:
    events = [*a_run(audits=())[:-1], Measured(59.0, "reported_resident_bytes", 0.0)]
    assert "reported_resident_bytes" not in measure(fold(events))


class TestWhatTheRulesSay:
    """A few of them, word for word."""

    @pytest.mark.parametrize(
        ("expectation", "verdict", "cause", "words"),
        [
            ({"percpu_free_bytes": "== 0"}, Verdict.FAIL, Cause.GUEST_RETAINED, "per-CPU"),
            ({"busy_rounds": ">= 9"}, Verdict.FAIL, Cause.OVERHEAD, "too few rounds"),
            ({"pressed_bytes": ">= 1GiB"}, Verdict.FAIL, Cause.STILL_CHARGED, "under pressure"),
            ({"pressed_bytes": "== 0"}, Verdict.FAIL, Cause.LAZILY_FREE, "only under pressure"),
            ({"settle_seconds": ">= 60"}, Verdict.FAIL, Cause.CONTROL_BROKEN, "sooner"),
            ({"held_bytes": ">= 1GiB"}, Verdict.FAIL, Cause.CONTROL_BROKEN, "came back"),
            ({"sleeps": "== 50"}, Verdict.ERROR, None, "slept fewer times"),
            ({"page_cache_bytes": ">= 1GiB"}, Verdict.ERROR, None, "keeps less (page cache)"),
        ],
        ids=str,
    )
    def test_their_causes(
        self,
        expectation: dict[str, str],
        verdict: Verdict,
        cause: Cause | None,
        words: str,
    ) -> None:
        guest = healthy()
        guest.zones = (zone(per_cpu=30 * 512),)
        pressure = pressed(45.0, before=52 * MIB, after=50 * MIB)
        events = run_on(guest, earlier=[*every_step()[:5], pressure])
        found = check(events, expectation)
        assert found[:2] == (verdict, cause), found[2]
        assert words in found[2]

    def test_too_much_that_no_audit_could_judge_is_a_miss(self) -> None:
        verdict, cause, reason = check(a_run(), {"unjudged_bytes": "< 0"})
        assert (verdict, cause) == (Verdict.MISS, None)
        assert "could not judge" in reason

    def test_it_does_not_hide_what_was_seen(self) -> None:
        expectations = {"unjudged_bytes": "< 0", "reported_resident_bytes": "== 0"}
        assert check(run_on(swallowed()), expectations)[1] is Cause.ACKED_NOT_DISCARDED

    def test_a_precondition_does_not_hide_lost_data(self) -> None:
        expectations = {"rounds": "== 9", "used_absent_bytes": "< 0"}
        assert check(a_run(), expectations)[1] is Cause.DATA_LOSS

    def test_settling_too_soon_with_reporting_off_is_the_feature(self) -> None:
        off = ready(offered=False, negotiated=False)
        events = a_run(ready_as=off, settled_as=settled(seconds=0.0))
        assert check(events, {"settle_seconds": ">= 1"})[1] is Cause.FEATURE_OFF
