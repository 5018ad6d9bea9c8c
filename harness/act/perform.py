# SPDX-License-Identifier: Apache-2.0
"""From a scenario's steps to the verbs that carry them out."""

from collections.abc import Callable, Sequence
from typing import Any

from harness.act.audit import audit
from harness.act.await_host import await_host
from harness.act.balloon import balloon
from harness.act.busy import busy, calm
from harness.act.churn import churn, release, verify
from harness.act.crowd import crowd
from harness.act.drain import drain
from harness.act.driver import bind, unbind
from harness.act.fault_rate import fault_rate
from harness.act.move import migrate, snapshot
from harness.act.order import order
from harness.act.plug import plug, unplug
from harness.act.pressure import pressure
from harness.act.run import qmp, require, run
from harness.act.session import GuestSession
from harness.act.settle import settle
from harness.act.suspend import suspend
from harness.act.watch import watch
from harness.scenario.steps import (
    AuditStep,
    AwaitStep,
    BalloonStep,
    BindStep,
    BusyStep,
    CalmStep,
    ChurnStep,
    CrowdStep,
    DrainStep,
    FaultRateStep,
    MigrateStep,
    OrderStep,
    PlugStep,
    PressureStep,
    QmpStep,
    ReleaseStep,
    RepeatStep,
    RequireStep,
    RunStep,
    SettleStep,
    SnapshotStep,
    Step,
    SuspendStep,
    UnbindStep,
    UnplugStep,
    VerifyStep,
    WatchStep,
)


def repeat(session: GuestSession, step: RepeatStep) -> None:
    """Carry out the inner steps `times` times."""
    for round_number in range(1, step.times + 1):
        session.phase("repeat", f"round {round_number} of {step.times}")
        perform(session, step.steps)


VERBS: dict[type, Callable[[GuestSession, Any], None]] = {
    AuditStep: audit,
    AwaitStep: await_host,
    BalloonStep: balloon,
    BindStep: bind,
    BusyStep: busy,
    CalmStep: calm,
    ChurnStep: churn,
    CrowdStep: crowd,
    DrainStep: drain,
    FaultRateStep: fault_rate,
    MigrateStep: migrate,
    OrderStep: order,
    PlugStep: plug,
    PressureStep: pressure,
    QmpStep: qmp,
    ReleaseStep: release,
    RepeatStep: repeat,
    RequireStep: require,
    RunStep: run,
    SettleStep: settle,
    SnapshotStep: snapshot,
    SuspendStep: suspend,
    UnbindStep: unbind,
    UnplugStep: unplug,
    VerifyStep: verify,
    WatchStep: watch,
}


def perform(session: GuestSession, steps: Sequence[Step]) -> None:
    """Carry out the steps in order. Raises what the verbs raise; the record keeps all before."""
    for step in steps:
        VERBS[type(step)](session, step)
    session.read_console()
