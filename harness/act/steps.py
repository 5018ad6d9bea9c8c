# SPDX-License-Identifier: Apache-2.0
"""From a scenario's steps to the verbs that carry them out."""

from collections.abc import Callable, Sequence
from typing import Any

from harness.act.audit import audit
from harness.act.churn import churn, release, verify
from harness.act.driver import bind, unbind
from harness.act.pressure import pressure
from harness.act.run import run
from harness.act.session import GuestSession
from harness.act.settle import settle
from harness.scenario.steps import (
    AuditStep,
    BindStep,
    ChurnStep,
    PressureStep,
    ReleaseStep,
    RepeatStep,
    RunStep,
    SettleStep,
    Step,
    UnbindStep,
    VerifyStep,
)


def repeat(session: GuestSession, step: RepeatStep) -> None:
    """Carry out the inner steps `times` times."""
    for round_number in range(1, step.times + 1):
        session.phase("repeat", f"round {round_number} of {step.times}")
        perform(session, step.steps)


VERBS: dict[type, Callable[[GuestSession, Any], None]] = {
    AuditStep: audit,
    BindStep: bind,
    ChurnStep: churn,
    PressureStep: pressure,
    ReleaseStep: release,
    RepeatStep: repeat,
    RunStep: run,
    SettleStep: settle,
    UnbindStep: unbind,
    VerifyStep: verify,
}


def perform(session: GuestSession, steps: Sequence[Step]) -> None:
    """Carry out the steps in order. Raises what the verbs raise; the record keeps all before."""
    for step in steps:
        VERBS[type(step)](session, step)
    session.read_console()
