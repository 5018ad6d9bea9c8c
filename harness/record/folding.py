# SPDX-License-Identifier: Apache-2.0
"""Folds the events of a run into its history, one after another.

Each kind of event that changes the history has one function here; other events change nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import singledispatch

from harness.kernel.pages import AuditReport
from harness.record.events import (
    COMPLETE_SCHEMA,
    AttemptBroke,
    AttemptCrashed,
    Audited,
    Ballooned,
    Broke,
    BusyEnded,
    BusyStarted,
    ChurnAsked,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    CrowdFull,
    CrowdGrew,
    DevicePlugged,
    DriverChanged,
    Event,
    FaultRate,
    GuestMoved,
    GuestReady,
    Measured,
    NoiseRead,
    OrderRead,
    PhaseStarted,
    Pressed,
    Raced,
    RunStarted,
    Sample,
    SamplingEnded,
    Settled,
    StepsDone,
    Suspended,
    Witnessed,
)
from harness.record.history import History, Round, Trouble, Waited
from harness.units import format_size

BOOT_PHASES = frozenset({"boot"})
"""Phases before a scenario's first step."""


def fold(events: Iterable[Event]) -> History:
    """Compute the history after these events, given in the order they happened."""
    history = History()
    for event in events:
        history = _after(event, history)
    return history


@singledispatch
def _after(_event: object, history: History) -> History:
    """Return the history after this event; by default, unchanged."""
    return history


@_after.register
def _(event: RunStarted, history: History) -> History:
    return replace(history, schema=event.schema)


@_after.register
def _(event: PhaseStarted, history: History) -> History:
    settles = event if event.phase == "settle" else None
    return replace(
        history,
        in_steps=history.in_steps or event.phase not in BOOT_PHASES,
        phase=settles,
        watched=(),
    )


@_after.register
def _(event: AttemptCrashed, history: History) -> History:
    return replace(history, crashed_boots=(*history.crashed_boots, event))


@_after.register
def _(event: AttemptBroke, history: History) -> History:
    return replace(history, broken_attempts=(*history.broken_attempts, event))


@_after.register
def _(event: GuestReady, history: History) -> History:
    there = replace(history, boots=(*history.boots, event), order=event.page_reporting_order)
    if not history.boots:
        return there
    # Nothing that the guest held or did before it booted again is still so.
    return replace(
        _round_ended(there),
        driver=None,
        held_by_churn=0,
        asked=None,
        settle=None,
        audit=None,
        trace_broken=True,
    )


@_after.register
def _(event: OrderRead, history: History) -> History:
    return replace(history, orders=(*history.orders, event), order=event.read)


@_after.register
def _(event: DriverChanged, history: History) -> History:
    return replace(history, driver=event)


@_after.register
def _(event: ChurnAsked, history: History) -> History:
    return replace(history, asked=event)


@_after.register
def _(event: ChurnHeld, history: History) -> History:
    history = _round_ended(history)
    return replace(
        history,
        fills=(*history.fills, event),
        held_by_churn=event.bytes,
        settle=None,
        audit=None,
    )


@_after.register
def _(event: ChurnFreed, history: History) -> History:
    history = _told(history, "freed or kept", event.bytes + event.still_held)
    history = _round_ended(history)
    before = history.at_audits[-1] if history.at_audits else None
    return replace(
        history,
        held_by_churn=event.still_held,
        asked=history.asked if event.still_held else None,
        rounds=(*history.rounds, Round(event, before)),
        in_round=True,
        trace_broken=False,
        settle=None,
        audit=None,
    )


@_after.register
def _(event: ChurnVerified, history: History) -> History:
    if event.by == "churn":
        history = _told(history, "verified or left unchecked", event.bytes + event.unchecked)
    return replace(
        history,
        verifications=(*history.verifications, event),
        losses=(*history.losses, event)
        if event.mismatched_pages or event.damaged
        else history.losses,
    )


@_after.register
def _(event: Settled, history: History) -> History:
    began = None if history.phase is None else history.phase.t
    return replace(
        history,
        settle=event,
        waits=(*history.waits, Waited(event, began, history.watched)),
        phase=None,
        settles=(*history.settles, event) if history.rounds else (),
        rounds=_seen_in_round(history, event.held, settled=event),
    )


def _lost(report: AuditReport) -> bool:
    return bool(report.total.held_absent or report.lost_bytes)


@_after.register
def _(event: Audited, history: History) -> History:
    there = replace(
        history,
        audits=(*history.audits, event),
        audit=event,
        losses=(*history.losses, event) if _lost(event.report) else history.losses,
        rounds=_seen_in_round(history, event.mapping.held),
    )
    return replace(there, at_audits=(*history.at_audits, there))


@_after.register
def _(event: Pressed, history: History) -> History:
    rounds = _seen_in_round(history, event.after.held)
    return replace(history, pressed=event, rounds=rounds, audit=None)


@_after.register
def _(event: Ballooned, history: History) -> History:
    return replace(history, ballooned=event, audit=None)


@_after.register
def _(event: DevicePlugged, history: History) -> History:
    return replace(
        history,
        plugs=(*history.plugs, event),
        trace_broken=history.trace_broken or event.bytes > 0,
        audit=None,
    )


@_after.register
def _(event: GuestMoved, history: History) -> History:
    return replace(
        history,
        moves=(*history.moves, event),
        trace_broken=history.trace_broken or event.how != "cancelled",
        audit=None,
    )


@_after.register
def _(event: BusyStarted, history: History) -> History:
    return replace(history, busy_sizes=(*history.busy_sizes, event.bytes))


@_after.register
def _(event: BusyEnded, history: History) -> History:
    verified = history.verifications[-1] if history.verifications else None
    least = event.rounds * min(history.busy_sizes, default=0)
    looked = verified is not None and verified.by == "busy"
    size = verified.bytes + verified.unchecked if verified is not None and looked else 0
    if history.schema >= COMPLETE_SCHEMA and (not looked or size < least):
        told = f"a busy process took memory {event.rounds} times, and verified less than that"
        history = replace(history, contradictions=(*history.contradictions, told))
    return replace(history, busy=(*history.busy, event))


@_after.register
def _(event: Raced, history: History) -> History:
    return replace(history, races=(*history.races, event))


@_after.register
def _(event: Witnessed, history: History) -> History:
    losses = (*history.losses, event) if event.lost else history.losses
    return replace(history, witnessed=(*history.witnessed, event), losses=losses)


@_after.register
def _(event: Suspended, history: History) -> History:
    # Before the guest sleeps, the balloon's driver deflates the balloon completely
    # (virtballoon_freeze() in drivers/virtio/virtio_balloon.c, Linux 6.1), so audits are stale.
    return replace(history, sleeps=(*history.sleeps, event), audit=None)


@_after.register
def _(event: CrowdGrew, history: History) -> History:
    return replace(history, crowd=(*history.crowd, event))


@_after.register
def _(event: CrowdFull, history: History) -> History:
    return replace(history, crowd_full=event)


@_after.register
def _(event: FaultRate, history: History) -> History:
    return replace(history, fault_rates=(*history.fault_rates, event))


@_after.register
def _(event: Measured, history: History) -> History:
    return replace(history, own=(*history.own, event))


@_after.register
def _(event: ConsoleFinding, history: History) -> History:
    under_kvm = any(boot.accel == "kvm" for boot in history.boots)
    trouble = Trouble(event, history.in_steps, under_kvm, history.asked)
    return replace(history, troubles=(*history.troubles, trouble))


@_after.register
def _(event: Sample, history: History) -> History:
    waits = history.waits
    if waits and waits[-1].after is None:
        waits = (*waits[:-1], replace(waits[-1], after=event))
    watched = history.watched if history.phase is None else (*history.watched, event)
    footprint = history.footprint.after(event) if history.in_steps else history.footprint
    return replace(
        history,
        samples=history.samples + 1,
        waits=waits,
        watched=watched,
        footprint=footprint,
    )


@_after.register
def _(event: SamplingEnded, history: History) -> History:
    return replace(history, sampled=(*history.sampled, event))


@_after.register
def _(event: NoiseRead, history: History) -> History:
    return replace(history, noise=(*history.noise, event))


@_after.register
def _(event: Broke, history: History) -> History:
    return history if history.broke is not None else replace(history, broke=event)


@_after.register
def _(_event: StepsDone, history: History) -> History:
    return replace(history, steps_done=True)


def _told(history: History, what: str, size: int) -> History:
    """The churn tool did this with all it held, which the record tells a second time."""
    if size == history.held_by_churn:
        return history
    held = format_size(history.held_by_churn)
    told = f"the churn tool held {held}, and {what} {format_size(size)}"
    return replace(history, contradictions=(*history.contradictions, told))


def _round_ended(history: History) -> History:
    if not history.in_round:
        return history
    return replace(history, round_ends=(*history.round_ends, history), in_round=False)


def _seen_in_round(
    history: History, held: int, *, settled: Settled | None = None
) -> tuple[Round, ...]:
    """Return the rounds; if one is in progress, with what the host holds at this point."""
    if not history.in_round:
        return history.rounds
    *earlier, last = history.rounds
    return (*earlier, replace(last, held=held, settled=settled or last.settled))
