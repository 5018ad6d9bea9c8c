# SPDX-License-Identifier: Apache-2.0
"""Wait until the host's view of guest memory meets conditions."""

from collections.abc import Iterator
from typing import ClassVar, Self

from pydantic import model_validator

from harness.act.guest import Guest
from harness.deadline import Deadline
from harness.measure.host_charges import host_measures
from harness.measure.measures import HOST_MEASURES
from harness.record.folding import fold
from harness.scenario.expectations import Expectations, unknown_names
from harness.scenario.fields import Seconds
from harness.scenario.steps import Situation, Verb
from harness.verdict.checks import values_now
from harness.verdict.expressions import Status, evaluate, parse_condition
from harness.yamlfile import Loc

LOOK_SECONDS = 0.1
"""Pause between exact readings of the host's mapping, each of which walks page tables."""


class Await(Verb):
    """Waits until the host's view of guest memory meets conditions, such as pages merged by KSM."""

    verb: ClassVar[str] = "await"
    real_clock: ClassVar[str] = (
        "the moment it waits for may be over before the host looks, or is of the host's own time"
    )
    until: Expectations
    """Conditions on measures of the host's mapping: `{merged_bytes: ">= 64MiB"}`."""
    deadline: Seconds
    """If it passes, the run is a MISS."""

    @model_validator(mode="after")
    def _host_tells(self) -> Self:
        if not self.until or not set(self.until) <= HOST_MEASURES:
            measures = ", ".join(sorted(HOST_MEASURES))
            raise ValueError(f"until: must have conditions, on these measures only: {measures}")
        return self

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Yield names in its conditions that nothing measures before it."""
        for measure, why in unknown_names(self.until, before.measured, before.audits):
            yield ("until", measure), why

    def perform(self, guest: Guest) -> None:
        """Poll the host's mapping until all conditions hold.

        Raises `DeadlineError` with the last values, and what the instruments raise.
        """
        wanted = {name: parse_condition(text) for name, text in self.until.items()}
        words = ", ".join(f"{name} {text}" for name, text in self.until.items())
        guest.phase("await", words)
        deadline = Deadline(self.deadline * guest.vm.pace, f"{words} on the host")
        known = values_now(fold(guest.record.events))
        while True:
            values = known | host_measures(guest.instruments.mapping.read())
            outcomes = [evaluate(name, condition, values) for name, condition in wanted.items()]
            if all(outcome.status is Status.HOLDS for outcome in outcomes):
                return
            deadline.check("; ".join(outcome.sentence for outcome in outcomes))
            guest.vm.sleep_alive(LOOK_SECONDS)
