# SPDX-License-Identifier: Apache-2.0
"""Wait until what the host holds of the guest is so."""

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.measure.measures import host_measures
from harness.scenario.steps import AwaitStep
from harness.verdict.expressions import Status, evaluate, parse_condition
from harness.verdict.judge import values_now

LOOK_SECONDS = 0.1
"""Between exact readings of the host's mapping; each walks page tables."""


def await_host(session: GuestSession, step: AwaitStep) -> None:
    """Raises `DeadlineError` with what the host held last, and what the instruments raise."""
    wanted = {name: parse_condition(text) for name, text in step.until.items()}
    words = ", ".join(f"{name} {text}" for name, text in step.until.items())
    session.phase("await", words)
    deadline = Deadline(step.deadline, f"the host to come to {words}")
    known = values_now(session.record.events)
    while True:
        values = known | host_measures(session.mapping.read())
        outcomes = [evaluate(name, condition, values) for name, condition in wanted.items()]
        if all(outcome.status is Status.HOLDS for outcome in outcomes):
            return
        deadline.check("; ".join(outcome.sentence for outcome in outcomes))
        session.vm.sleep_alive(LOOK_SECONDS)
