# SPDX-License-Identifier: Apache-2.0
"""Judge a run by its history and what was asked of it. A PASS must never be wrong.

The first of these that applies decides: a bug of the harness, which says nothing about the guest;
a crash of the guest during boot; proof of damage (lost data, a crash, a hang), even in a run that
broke; a failed expectation of an audit before the run broke; what broke the run; a failed
expectation with its cause, unless host noise can explain it; what could not be judged; an
inconsistent record. If none applies, the run is a PASS.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from harness.errors import DeadlineError, GuestStuckError, InternalError
from harness.measure.measures import measure, measured_by_steps
from harness.record.asked import Asked
from harness.record.events import Judged
from harness.record.facts import Cause, Verdict
from harness.record.history import History, Trouble
from harness.verdict.causes import blame
from harness.verdict.checks import (
    Check,
    all_checks,
    audit_checks,
    run_checks,
    too_small_a_crowd,
    values_now,
    why_unknown,
)
from harness.verdict.coherence import blind_spot, contradiction, what_was_not_checked
from harness.verdict.layers import Blame, never_on
from harness.verdict.loss_words import loss_sentence
from harness.verdict.noise import host_noise, swap_noise
from harness.verdict.stale_breakpoint import stale_breakpoint

CRASHES_THAT_FAIL = 2
"""Crashed boots that make a FAIL under a QEMU with a known defect; fewer are booted again."""

_MISUSE = re.compile(r"BUG: (?:KASAN|KFENCE|KMSAN): ")
"""Titles of the sanitizers that find wrong uses of memory (mm/kasan, mm/kfence, mm/kmsan)."""


@dataclass(frozen=True)
class _Finding:
    verdict: Verdict
    reason: str
    cause: Cause | None = None
    failed: tuple[str, ...] = ()


def judge(history: History, asked: Asked, *, t: float = 0.0) -> Judged:
    """Judge a run by its history; `t` becomes the time of the `Judged` event.

    An expectation that cannot be parsed makes the run an ERROR instead of raising.
    """
    try:
        damage = _damaged(history, asked)
        proven = damage if damage is not None and damage.verdict is Verdict.FAIL else None
        finding = (
            _own_defect(history)
            or _crashed_at_boot(history)
            or proven
            or _wrong_before_it_broke(history, asked)
            or damage
            or _broke(history)
            or _by_expectations(history, asked)
        )
    except ValueError as error:
        finding = _Finding(Verdict.ERROR, f"an expectation cannot be parsed: {error}")
    return Judged(
        t,
        finding.verdict,
        finding.cause,
        finding.reason + earlier_attempts(history),
        measure(history),
        _answer(history, asked, finding.verdict),
        failed=finding.failed,
    )


def _answer(history: History, asked: Asked, verdict: Verdict) -> dict[str, float]:
    if asked.answer:
        known = values_now(history)
        return {name: known[name] for name in asked.answer if name in known}
    return measured_by_steps(history) if verdict is Verdict.DONE else {}


def _own_defect(history: History) -> _Finding | None:
    """Return an ERROR if a bug of the harness broke the run."""
    broke = history.broke
    if broke is None or broke.error != InternalError.__name__:
        return None
    damage = _damage(history)
    before = f"; before that, {damage.reason}" if damage is not None else ""
    return _Finding(Verdict.ERROR, f"{broke.message} ({broke.hint}){before}")


def _crashed_at_boot(history: History) -> _Finding | None:
    """Judge a kernel that crashed before the first step.

    It is a FAIL, or a MISS if a known defect of QEMU may explain it and it happened only once.
    """
    crashes = history.crashed_boots
    if history.in_steps or not crashes or not crashes[-1].own:
        return None
    last = crashes[-1]
    if not last.defect:
        reason = f"the guest's kernel crashed during boot: {last.title}"
        return _Finding(Verdict.FAIL, reason, Cause.GUEST_CRASH)
    if len(crashes) >= CRASHES_THAT_FAIL:
        return _Finding(
            Verdict.FAIL,
            f"the guest's kernel crashed in {len(crashes)} of {last.attempt} boots: {last.title}",
            Cause.GUEST_CRASH,
        )
    return _Finding(
        Verdict.MISS,
        f"the guest's kernel crashed during boot, which a known defect of this QEMU may explain "
        f"({last.defect}): {last.title}",
    )


def earlier_attempts(history: History) -> str:
    """What the reason of a verdict ends with: how earlier attempts ended, even if this passed."""
    broken = [f"; attempt {each.attempt} broke: {each.reason}" for each in history.broken_attempts]
    return _earlier_crashes(history) + "".join(broken)


def _earlier_crashes(history: History) -> str:
    earlier = [crash for crash in history.crashed_boots if not crash.own]
    if not earlier or _crashed_at_boot(history) is not None:
        return ""
    boots = "1 earlier boot" if len(earlier) == 1 else f"{len(earlier)} earlier boots"
    return f"; {boots} of the same guest crashed before the first step: {earlier[-1].title}"


def _damage(history: History) -> _Finding | None:
    """Return a FAIL for damage that needs no expectation: lost data, then a crash, then a hang."""
    if history.losses:
        return _Finding(Verdict.FAIL, loss_sentence(history.losses[0]), Cause.DATA_LOSS)
    for severity, cause in (("crash", Cause.GUEST_CRASH), ("hang", Cause.GUEST_HANG)):
        for trouble in history.troubles:
            if trouble.finding.severity == severity:
                found = _trouble(trouble, cause)
                after = _misuse_before(history, trouble)
                return replace(found, reason=found.reason + after + _what_stuck(history))
    return None


def _misuse_before(history: History, trouble: Trouble) -> str:
    """Name the misuse of memory that the kernel had told of, which may have led to the trouble."""
    for earlier in takewhile(lambda each: each is not trouble, history.troubles):
        if _MISUSE.match(earlier.finding.title):
            return f", after {earlier.finding.title}"
    return ""


def _what_stuck(history: History) -> str:
    """Describe the wait of a step that ended in a crash or a hang, if there was one."""
    broke = history.broke
    waited = broke is not None and broke.error in (DeadlineError.__name__, GuestStuckError.__name__)
    if (
        broke is None
        or not waited
        or any(broke.message in e.finding.title for e in history.troubles)
    ):
        return ""
    return f"; it was found when a step {broke.message}"


def _trouble(trouble: Trouble, cause: Cause) -> _Finding:
    """Judge a crash or hang: a MISS before the first step except under KVM, else a FAIL, unless
    TCG made it.
    """
    found = trouble.finding
    if not trouble.under_kvm and stale_breakpoint(found.title, found.text):
        return _Finding(
            Verdict.MISS,
            f"the guest's console shows: {found.title}, for a breakpoint that its kernel had taken "
            "out again: TCG ran code that had been patched since",
        )
    if trouble.in_steps or trouble.under_kvm:
        shown = f"the guest's console shows: {found.title}" if found.on_console else found.title
        return _Finding(Verdict.FAIL, shown, cause)
    return _Finding(
        Verdict.MISS, f"the guest was in trouble before the scenario's first step: {found.title}"
    )


def _damaged(history: History, asked: Asked) -> _Finding | None:
    """Return damage as `_damage` does, with what the audits had found wrong besides."""
    found = _damage(history)
    if found is None or found.verdict is not Verdict.FAIL:
        return found
    failed = (check.sentence for check in _seen_at_audits(history, asked) if check.fails)
    return replace(found, failed=tuple(failed))


def _seen_at_audits(history: History, asked: Asked) -> list[Check]:
    """Check what the audits alone can tell, by the last one only if no memory has moved since."""
    checks = list(audit_checks(history, asked))
    if history.audit is not None:
        checks += run_checks(history, asked, asked.page_invariants)
    return checks


def _wrong_before_it_broke(history: History, asked: Asked) -> _Finding | None:
    """Return what had failed before the run broke, at an audit or on the console.

    That may be what broke the run, such as an OOM kill of a process that a step waits for. What the
    scenario expects of the whole run is not judged, but the invariants of pages are, by the last
    audit if nothing has moved memory since.
    """
    broke = history.broke
    if broke is None:
        return None
    checks = _seen_at_audits(history, asked)
    name = "console_findings"
    if broke.verdict is not Verdict.MISS and name in asked.conditions:
        checks += run_checks(history, asked, {name: asked.conditions[name]})
    found = _failure([check for check in checks if check.fails])
    if found is None or found.verdict is Verdict.MISS:
        return None
    return replace(found, reason=f"{found.reason}; after that {broke.message}")


def _broke(history: History) -> _Finding | None:
    broke = history.broke
    if broke is not None:
        hint = f" ({broke.hint})" if broke.hint else ""
        return _Finding(broke.verdict, f"{broke.message}{hint}")
    if not history.steps_done:
        return _Finding(Verdict.MISS, "the record ends before the scenario's last step")
    return None


def _by_expectations(history: History, asked: Asked) -> _Finding:
    checks = all_checks(history, asked)
    off = never_on(history)
    if asked.reporting_wanted and off is not None:
        return _Finding(Verdict.FAIL, off, Cause.FEATURE_OFF)
    crowds = [words for check in checks if (words := too_small_a_crowd(check)) is not None]
    failure = _failure([c for c in checks if c.fails and too_small_a_crowd(c) is None])
    if failure is not None:
        return failure
    if crowds:
        return _Finding(Verdict.ERROR, crowds[0])
    unchecked = what_was_not_checked(history)
    if unchecked is not None:
        return _Finding(Verdict.MISS, unchecked)
    unknown = [check for check in checks if check.unknown]
    if unknown:
        return _Finding(Verdict.MISS, unknown[0].sentence + why_unknown(unknown[0]))
    contradicted = contradiction(history)
    if contradicted is not None:
        return _Finding(
            Verdict.MISS, f"nothing fails, but the record contradicts itself: {contradicted}"
        )
    blind = blind_spot(history)
    if blind is not None:
        return _Finding(Verdict.MISS, f"nothing fails, but {blind}")
    if not asked.expect and not any(audit.checks for audit in history.audits):
        held = f", and {_all(len(checks), 'invariant')}" if checks else ""
        return _Finding(Verdict.DONE, f"measured; the scenario expects nothing{held}")
    if not history.boots:
        return _Finding(Verdict.MISS, "the record does not say that a guest ever ran")
    swap = swap_noise(history)
    if swap is not None:
        return _Finding(Verdict.MISS, f"every expectation holds, but {swap}")
    return _Finding(Verdict.PASS, _all(len(checks), "expectation"))


def _all(count: int, what: str) -> str:
    return f"its {what} holds" if count == 1 else f"all {count} {what}s hold"


_GRAVITY: dict[Cause | None, int] = {
    Cause.DATA_LOSS: 0,
    None: 1,
    Cause.GUEST_CRASH: 2,
    Cause.GUEST_HANG: 2,
    Cause.CONTROL_BROKEN: 3,
    Cause.FEATURE_OFF: 4,
    Cause.ACKED_NOT_DISCARDED: 5,
    Cause.STILL_CHARGED: 5,
    Cause.LAZILY_FREE: 5,
    Cause.NOT_REPORTED: 6,
    Cause.NOT_SETTLED: 7,
    Cause.GUEST_RETAINED: 8,
    Cause.KERNEL_WARNING: 9,
    Cause.OVERHEAD: 10,
}
"""Rank of causes; if several expectations fail, the lowest rank names the run's cause. An unmet
precondition of the scenario (None) comes before all except lost data, because it may have produced
the others; so may a warning from the code that reports. A MISS, for too little seen, comes last."""


_MISLEADS = frozenset({"free_drift_bytes"})
"""Measures that, out of their bounds, make what is computed from the guest's counters worthless."""


def _gravity(check: Check, why: Blame) -> float:
    if why.verdict is Verdict.MISS:
        return len(_GRAVITY)
    if check.outcome.measure in _MISLEADS:
        return _GRAVITY[None]
    if check.outcome.measure == "console_findings" and why.cause is None:
        return _GRAVITY[Cause.KERNEL_WARNING]
    if why.explains:
        return _GRAVITY[Cause.FEATURE_OFF] - 0.5
    return _GRAVITY[why.cause]


def _failure(failed: Sequence[Check]) -> _Finding | None:
    """Return the gravest failure that noise cannot explain; None if nothing failed.

    If noise can explain all failures, that is a MISS.
    """
    if not failed:
        return None
    sentences = tuple(check.sentence for check in failed)
    blamed = [(check, blame(check.history, check.outcome)) for check in failed]
    explained = [
        (check, why, host_noise(check.history, check.outcome.measure, why.cause))
        for check, why in blamed
    ]
    sure = [(check, why) for check, why, noise in explained if noise is None]
    if not sure:
        check, why, noise = explained[0]
        return _Finding(
            Verdict.MISS,
            f"{check.sentence}, but the host may have caused that: {noise}",
            failed=sentences,
        )
    # Of equally grave ones the largest: an invariant of an early audit may have failed for less.
    check, why = min(sure, key=lambda pair: (_gravity(*pair), -pair[1].size))
    others = [other.name for other in failed if other is not check]
    more = f"; also failed: {', '.join(others)}" if others else ""
    # The title of a console finding says more than the number of findings.
    told = check.outcome.measure == "console_findings" and check.outcome.too_high
    found = "" if told else f": {check.sentence}"
    return _Finding(why.verdict, f"{why.sentence}{found}{more}", why.cause, sentences)
