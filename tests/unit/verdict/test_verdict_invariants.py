# SPDX-License-Identifier: Apache-2.0
"""What holds in every scenario without being written down, and how a scenario switches it off."""

from dataclasses import replace
from typing import Any

import pytest
from judging import RECLAIM, G, S, check, judged, run_on, swallowed, warning
from pydantic import ValidationError
from run_builders import Guest, a_run, freed, healthy, mapping, started

from harness.act.discover import VERBS
from harness.record.asked import IF_TAKEN, INVARIANTS
from harness.record.events import ChurnVerified, Event, RunStarted, StepsDone
from harness.record.facts import Cause, Verdict
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.scenario.model import Scenario
from harness.units import MIB

FREE = {"churn": {"size": "50%"}}


def scenario(*steps: Any, **fields: Any) -> Scenario:
    return VERBS.scenario.model_validate(
        {"name": "own", "title": "One's own", "steps": list(steps), **fields}
    )


def outside_grew(size: int) -> list[Event]:
    """A clean run, but that QEMU holds so much more outside guest memory than before the free."""
    return a_run(audits=[healthy().audited(mapping=mapping(52 * MIB, outside=size))])


class TestWhichApply:
    """Only those that the steps can tell of: what nobody looks at can neither hold nor fail."""

    @pytest.mark.parametrize(
        ("steps", "names"),
        [
            (({"settle": {}},), {"console_findings"}),
            ((FREE,), {"console_findings", "integrity_mismatched_pages"}),
            (
                (FREE, {"audit": {}}),
                set(INVARIANTS),
            ),
            (({"audit": {}},), set(INVARIANTS) - {"integrity_mismatched_pages"}),
            (({"audit": {}}, FREE), set(INVARIANTS) - {"reported_resident_bytes"} - IF_TAKEN),
            (({"audit": {}}, {"pressure": {}}, {"audit": {"name": "after"}}),
             set(INVARIANTS) - {"integrity_mismatched_pages"}),
            (({"repeat": {"times": 2, "steps": [{"audit": {}}, FREE]}},),
             set(INVARIANTS) - {"reported_resident_bytes"} - IF_TAKEN),
        ],
    )  # fmt: skip
    def test_by_the_steps(self, steps: tuple[Any, ...], names: set[str]) -> None:
        assert set(scenario(*steps).asked.invariants) == names

    def test_one_is_switched_off_by_its_name(self) -> None:
        quiet = scenario({"audit": {}}, without=["reported_resident_bytes"])
        named = {"console_findings", "held_absent_bytes"}
        assert set(quiet.asked.invariants) == named | IF_TAKEN

    def test_an_expectation_of_the_same_measure_replaces_it(self) -> None:
        own = scenario({"audit": {}}, expect={"reported_resident_bytes": "<= 1MiB"})
        assert own.asked.conditions["reported_resident_bytes"] == "<= 1MiB"

    def test_a_name_of_none_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ValidationError, match="did you mean 'console_findings'"):
            scenario({"audit": {}}, without=["console_finding"])

    def test_no_file_of_the_project_repeats_one(self) -> None:
        for path in sorted(SCENARIOS_DIR.glob("*.yaml")):
            for each in load_scenarios(path, VERBS):
                repeated = each.expect.items() & each.invariants.items()
                assert not repeated, f"{each.name} writes down {repeated}"


class TestJudged:
    """Like expectations: they fail a run with its cause, and never let it pass unseen."""

    @pytest.mark.parametrize("expect", [{"rounds": "== 1"}, {}], ids=["PASS else", "DONE else"])
    @pytest.mark.parametrize(
        ("events", "cause"),
        [
            (run_on(swallowed()), Cause.ACKED_NOT_DISCARDED),
            (a_run(earlier=[warning()]), Cause.KERNEL_WARNING),
            (a_run(verified=1), Cause.DATA_LOSS),
            (run_on(healthy().blocks(18, 1, G.HELD, S.ABSENT)), Cause.DATA_LOSS),
            (run_on(healthy().blocks(18, 1, G.CONTENT, S.ABSENT)), Cause.DATA_LOSS),
            (run_on(healthy().blocks(18, 1, G.OFFLINE, S.RESIDENT)), Cause.ACKED_NOT_DISCARDED),
            (outside_grew(17 * MIB), Cause.STILL_CHARGED),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_broken_one_fails_any_run(
        self, events: list[Event], cause: Cause, expect: dict[str, str]
    ) -> None:
        verdict, found, _reason = check(events, expect, invariants=INVARIANTS)
        assert (verdict, found) == (Verdict.FAIL, cause)

    @pytest.mark.parametrize(
        ("earlier", "measure"),
        [
            (healthy().blocks(18, 1, G.OFFLINE, S.RESIDENT), "balloon_resident_bytes"),
            (swallowed(), "reported_resident_bytes"),
        ],
        ids=["in the balloon", "reported"],
    )
    def test_what_the_host_kept_at_an_earlier_audit_fails_the_run(
        self, earlier: Guest, measure: str
    ) -> None:
        """The balloon was deflated, or the memory taken again, before the last audit."""
        events = a_run(audits=[earlier.audited(45.0, "full"), healthy().audited()])
        verdict, cause, reason = check(events, {}, invariants=INVARIANTS)
        assert (verdict, cause) == (Verdict.FAIL, Cause.ACKED_NOT_DISCARDED)
        assert f"at audit 'full': {measure} " in reason

        scenarios_own = {measure: "<= 1GiB"}
        assert check(events, scenarios_own, invariants=INVARIANTS)[0] is Verdict.PASS
        less = {name: INVARIANTS[name] for name in INVARIANTS if name != measure}
        assert check(events, {}, invariants=less)[0] is Verdict.DONE

    def test_invariants_of_an_earlier_audit_are_no_expectations(self) -> None:
        events = a_run(audits=[healthy().audited(45.0, "full"), healthy().audited()])
        assert check(events, {}, invariants=INVARIANTS)[0] is Verdict.DONE

    def test_what_not_every_run_can_tell_holds_where_nobody_looked(self) -> None:
        """A run from before QEMU's other memory was read."""
        events = a_run(audits=[healthy().audited(mapping=mapping(52 * MIB, outside=None))])
        assert isinstance(events[0], RunStarted)
        events[0] = replace(events[0], schema=2)
        assert check(events, RECLAIM, invariants=INVARIANTS)[0] is Verdict.PASS

    def test_a_little_growth_of_qemu_itself_is_normal(self) -> None:
        assert check(outside_grew(3 * MIB), {}, invariants=INVARIANTS)[0] is Verdict.DONE

    def test_a_measurement_in_which_they_hold_is_done(self) -> None:
        verdict, _cause, reason = check(a_run(), {}, invariants=INVARIANTS)
        assert verdict is Verdict.DONE
        held = f"all {len(INVARIANTS)} invariants hold"
        assert reason == f"measured; the scenario expects nothing, and {held}"

    @pytest.mark.parametrize("expect", [{"rounds": ">= 1"}, {}], ids=["PASS else", "DONE else"])
    @pytest.mark.parametrize(
        "events",
        [
            [event for event in a_run() if not isinstance(event, ChurnVerified)],
            [*a_run(last=()), freed(70.0), StepsDone(80.0)],
            run_on(healthy().blocks(26, 20, G.REPORTED, S.UNKNOWN)),
        ],
        ids=["nobody verified", "memory moved after the audit", "the audit was blind"],
    )
    def test_one_that_could_not_be_looked_at_is_a_miss(
        self, events: list[Event], expect: dict[str, str]
    ) -> None:
        assert check(events, expect, invariants=INVARIANTS)[0] is Verdict.MISS

    def test_all_that_fail_are_listed(self) -> None:
        events = run_on(swallowed(), earlier=[warning()])
        assert judged(events, {}, invariants=INVARIANTS).failed == (
            "console_findings 1, expected == 0",
            "reported_resident_bytes 160MiB, expected == 0B",
        )

    def test_a_warning_in_a_run_without_an_audit(self) -> None:
        events = [*started(), warning(), StepsDone(60.0)]
        asked = scenario({"settle": {}}).asked
        assert check(events, {}, invariants=asked.invariants)[1] is Cause.KERNEL_WARNING
