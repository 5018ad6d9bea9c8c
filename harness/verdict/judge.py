# SPDX-License-Identifier: Apache-2.0
"""The verdict of a run, from its events and what its scenario expects. Never a wrong PASS.

In this order: proof of damage (lost data, a crash, a hang) wins over everything, even over a run
that broke; so does what an audit before that had found wrong; then what broke; then a failed
expectation with its cause, unless host noise can explain it; then what could not be judged. PASS is
what remains.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.measure.measures import AUDIT_MEASURES, MEASURES, current_audit, is_usable, measure
from harness.measure.step_measures import step_measures
from harness.record.events import (
    Audited,
    Broke,
    ChurnVerified,
    ConsoleFinding,
    Event,
    GuestReady,
    Judged,
    PhaseStarted,
    StepsDone,
)
from harness.record.facts import Cause, Verdict
from harness.units import format_size
from harness.verdict.causes import Blame, blame, feature_off
from harness.verdict.expressions import (
    Condition,
    Outcome,
    Status,
    check_name,
    evaluate,
    names_in,
    parse_check,
    parse_condition,
)
from harness.verdict.noise import collapse_noise, pressure_noise, swap_noise

BOOT_PHASES = frozenset({"boot"})
"""Phases before a scenario's first step."""

_PRESSURE_EXPLAINS = frozenset(
    {
        Cause.NOT_REPORTED,
        Cause.NOT_SETTLED,
        Cause.GUEST_RETAINED,
        Cause.STILL_CHARGED,
        Cause.OVERHEAD,
    }
)
"""What a host short of memory can bring about without a defect in reporting."""


@dataclass(frozen=True)
class _Finding:
    verdict: Verdict
    reason: str
    cause: Cause | None = None
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Check:
    """One expectation, judged over the events up to its moment."""

    where: str
    """Names the audit of a step-level check; empty for the scenario's own expectations."""
    events: Sequence[Event]
    outcome: Outcome


def judge(
    events: Sequence[Event],
    expectations: Mapping[str, str],
    *,
    t: float = 0.0,
    reporting_wanted: bool = False,
    measured: Collection[str] = (),
    answer: Sequence[str] = (),
) -> Judged:
    """Judge a run. `expectations`: measure -> condition; checks of single audits are in `events`.

    `t` becomes the time of the `Judged` event. With `reporting_wanted` a run whose guest never
    negotiated free page reporting cannot pass, whatever it expects. `measured`: names of what the
    scenario's own steps measure. `answer`: measures to show, those of an audit as `AUDIT.measure`;
    none: of a run without expectations all that its steps measure. An expectation that cannot be
    parsed makes the run an ERROR; nothing is raised.
    """
    names = {*MEASURES, *measured}
    try:
        finding = (
            _damage(events)
            or _wrong_before_it_broke(events, expectations, names)
            or _broke(events)
            or _by_expectations(events, expectations, reporting_wanted, names)
        )
    except ValueError as error:
        finding = _Finding(Verdict.ERROR, f"an expectation cannot be read: {error}")
    values = measure(events)
    if answer:
        known = values_now(events)
        shown = {name: known[name] for name in answer if name in known}
    else:
        shown = step_measures(events) if finding.verdict is Verdict.DONE else {}
    return Judged(
        t, finding.verdict, finding.cause, finding.reason, values, shown, failed=finding.failed
    )


def values_now(events: Sequence[Event]) -> dict[str, float]:
    """Every measure by the end of these events, and as `AUDIT.measure` what it was at an audit."""
    values = measure(events)
    for index, event in enumerate(events):
        if isinstance(event, Audited):
            then = measure(events[: index + 1])
            values |= {f"{event.name}.{name}": value for name, value in then.items()}
    return values


def _damage(events: Sequence[Event]) -> _Finding | None:
    """Proof that needs no expectation: lost data first, then a crash, then a hang."""
    for event in events:
        if isinstance(event, ChurnVerified) and event.mismatched_pages:
            words = f": {event.detail[0]}" if event.detail else ""
            return _Finding(
                Verdict.FAIL,
                f"{event.mismatched_pages} of the pages the churn tool held "
                f"({format_size(event.bytes)}) had changed when it verified them{words}",
                Cause.DATA_LOSS,
            )
        if isinstance(event, Audited) and event.report.total.held_absent:
            pfns = event.report.held_absent_pfns
            where = f" (first at PFN {pfns[0]:#x})" if pfns else ""
            return _Finding(
                Verdict.FAIL,
                f"{format_size(event.report.total.held_absent)} that the churn tool had written "
                f"and held were gone from the host at audit {event.name!r}{where}",
                Cause.DATA_LOSS,
            )
    for severity, cause in (("crash", Cause.GUEST_CRASH), ("hang", Cause.GUEST_HANG)):
        for index, event in enumerate(events):
            if isinstance(event, ConsoleFinding) and event.severity == severity:
                return _trouble(events[:index], event, cause)
    return None


def _trouble(before: Sequence[Event], found: ConsoleFinding, cause: Cause) -> _Finding:
    """A crash or hang: MISS before the first step unless KVM ran the guest, else FAIL."""
    started = any(isinstance(e, PhaseStarted) and e.phase not in BOOT_PHASES for e in before)
    under_kvm = any(isinstance(e, GuestReady) and e.accel == "kvm" for e in before)
    if started or under_kvm:
        shown = f"the guest's console shows: {found.title}" if found.on_console else found.title
        return _Finding(Verdict.FAIL, shown, cause)
    return _Finding(
        Verdict.MISS, f"the guest was in trouble before the scenario's first step: {found.title}"
    )


def _wrong_before_it_broke(
    events: Sequence[Event], expectations: Mapping[str, str], known: Collection[str]
) -> _Finding | None:
    """What was known to be wrong when the run broke: at an audit of its own, or on the console.

    It may be what broke it: a process that the OOM killer has taken ends no step.
    """
    broke = next((event for event in events if isinstance(event, Broke)), None)
    if broke is None or broke.verdict is Verdict.SKIP:
        return None
    checks = _evaluate(events, {}, known)
    name = "console_findings"
    if broke.verdict is Verdict.ERROR and name in expectations:
        condition = parse_condition(expectations[name])
        checks.append(_check("", events, name, condition, measure(events), known))
    found = _failure([check for check in checks if check.outcome.status is Status.FAILS])
    if found is None or found.verdict is not Verdict.FAIL:
        return None
    return replace(found, reason=f"{found.reason}; after that {broke.message}")


def _broke(events: Sequence[Event]) -> _Finding | None:
    broke = next((event for event in events if isinstance(event, Broke)), None)
    if broke is not None:
        hint = f" ({broke.hint})" if broke.hint else ""
        return _Finding(broke.verdict, f"{broke.message}{hint}")
    if not any(isinstance(event, StepsDone) for event in events):
        return _Finding(Verdict.MISS, "the record ends before the scenario's last step")
    return None


def _by_expectations(
    events: Sequence[Event],
    expectations: Mapping[str, str],
    reporting_wanted: bool,
    known: Collection[str],
) -> _Finding:
    checks = _evaluate(events, expectations, known)
    off = feature_off([e for e in events if isinstance(e, GuestReady)])
    if reporting_wanted and off is not None:
        return _Finding(Verdict.FAIL, off, Cause.FEATURE_OFF)
    if not checks:
        return _Finding(Verdict.DONE, "measured; the scenario expects nothing")
    failure = _failure([check for check in checks if check.outcome.status is Status.FAILS])
    if failure is not None:
        return failure
    unknown = [check for check in checks if check.outcome.status is Status.UNKNOWN]
    if unknown:
        return _Finding(Verdict.MISS, _sentence(unknown[0]) + _why_unknown(unknown[0]))
    if not any(isinstance(event, GuestReady) for event in events):
        return _Finding(Verdict.MISS, "the record does not say that a guest ever ran")
    swap = swap_noise(events)
    if swap is not None:
        return _Finding(Verdict.MISS, f"every expectation holds, but {swap}")
    return _Finding(Verdict.PASS, f"all {len(checks)} expectations hold")


def _evaluate(
    events: Sequence[Event], expectations: Mapping[str, str], known: Collection[str]
) -> list[_Check]:
    """Every check in order of its moment. Raises `ValueError` for one that cannot be read."""
    checks = []
    for index, event in enumerate(events):
        if isinstance(event, Audited) and event.checks:
            until = events[: index + 1]
            values = values_now(until)
            for text in event.checks:
                name, condition = parse_check(text)
                checks.append(_check(event.name, until, name, condition, values, known))
    values = values_now(events)
    for name, text in expectations.items():
        checks.append(_check("", events, name, parse_condition(text), values, known))
    return checks


def _check(
    where: str,
    events: Sequence[Event],
    name: str,
    condition: Condition,
    values: Mapping[str, float],
    known: Collection[str],
) -> _Check:
    for used in {name} | names_in(condition.expression):
        check_name(used.rpartition(".")[2], known)
    return _Check(where, events, evaluate(name, condition, values))


_GRAVITY: dict[Cause | None, int] = {
    None: -1,
    Cause.DATA_LOSS: 0,
    Cause.GUEST_CRASH: 1,
    Cause.GUEST_HANG: 1,
    Cause.CONTROL_BROKEN: 2,
    Cause.FEATURE_OFF: 3,
    Cause.ACKED_NOT_DISCARDED: 4,
    Cause.STILL_CHARGED: 4,
    Cause.LAZILY_FREE: 4,
    Cause.NOT_REPORTED: 5,
    Cause.NOT_SETTLED: 6,
    Cause.GUEST_RETAINED: 7,
    Cause.KERNEL_WARNING: 8,
    Cause.OVERHEAD: 9,
}
"""Which cause a run is called after when several expectations failed: the lowest. A scenario that
did not happen as written comes first, for it may have brought about the others."""


def _failure(failed: Sequence[_Check]) -> _Finding | None:
    """The gravest cause among the failures that noise cannot explain; None if nothing failed."""
    if not failed:
        return None
    sentences = tuple(_sentence(check) for check in failed)
    blamed = [(check, blame(check.events, check.outcome)) for check in failed]
    explained = [(check, why, _noise(check, why)) for check, why in blamed]
    sure = [(check, why) for check, why, noise in explained if noise is None]
    if not sure:
        check, why, noise = explained[0]
        return _Finding(
            Verdict.MISS,
            f"{_sentence(check)}, but that may be the host's doing: {noise}",
            failed=sentences,
        )
    check, why = min(sure, key=lambda pair: _GRAVITY[pair[1].cause])
    others = [_measured_at(other) for other in failed if other is not check]
    more = f"; also failed: {', '.join(others)}" if others else ""
    reason = f"{why.sentence}: {_sentence(check)}{more}"
    if why.cause is None:
        return _Finding(Verdict.ERROR, reason, failed=sentences)
    if why.cause is Cause.KERNEL_WARNING:
        titles = [e.title for e in check.events if isinstance(e, ConsoleFinding)]
        reason = f"the guest's console shows: {titles[0] if titles else 'trouble'}{more}"
    return _Finding(Verdict.FAIL, reason, why.cause, sentences)


def _noise(check: _Check, why: Blame) -> str | None:
    if why.cause is Cause.ACKED_NOT_DISCARDED:
        return collapse_noise(check.events, why.size)
    if why.cause is Cause.CONTROL_BROKEN and any(
        isinstance(event, GuestReady) and event.discard == "free" for event in check.events
    ):
        # What is lazily free goes by itself where the host wants memory.
        return pressure_noise(check.events)
    return pressure_noise(check.events) if why.cause in _PRESSURE_EXPLAINS else None


def _measured_at(check: _Check) -> str:
    measure = check.outcome.measure
    return f"{check.where}.{measure}" if check.where else measure


def _sentence(check: _Check) -> str:
    where = f"at audit {check.where!r}: " if check.where else ""
    return where + check.outcome.sentence


def _why_unknown(check: _Check) -> str:
    """What kept the audit's measures away, where that is the reason."""
    if not AUDIT_MEASURES & set(check.outcome.missing):
        return ""
    audit = current_audit(check.events)
    if audit is None:
        taken = any(isinstance(event, Audited) for event in check.events)
        return " (memory changed after the last audit)" if taken else " (no audit was taken)"
    if not is_usable(audit):
        cells = audit.report.total
        return (
            f" (audit {audit.name!r} could not judge {format_size(cells.unstable)} that changed "
            f"while it looked and {format_size(cells.unknown)} without host state)"
        )
    return ""
