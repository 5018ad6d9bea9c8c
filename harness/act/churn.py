# SPDX-License-Identifier: Apache-2.0
"""Fill memory with a seeded pattern, hold it, verify every word, free all or a part."""

from typing import Literal

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import ScenarioError
from harness.guest.churn_client import ChurnSession
from harness.guest.counter_stream import read_counters
from harness.record.events import ChurnFreed, ChurnHeld, ChurnVerified
from harness.scenario.steps import ChurnStep, ReleaseStep, VerifyStep
from harness.units import MIB, format_size

SLOWEST_RATE = 32 * MIB
"""Bytes a second that the tool writes or verifies at worst, a loaded host under TCG included;
gives the deadline of each phase."""

SLACK_SECONDS = 10.0

FreeWhat = Literal["all", "half-of-blocks", "half-of-pages", "huge-page-tails"]


def churn(session: GuestSession, step: ChurnStep) -> None:
    """One round: fill, hold, verify, free. What is not freed stays held for later steps."""
    size = step.size.of(session.vm.spec.memory)
    if session.churn is not None:
        release(session, ReleaseStep())
    session.patterns += 1
    session.phase("churn", f"writing {format_size(size)}")
    record = session.record
    tool = ChurnSession.start(
        session.vm.shell,
        size=size,
        seed=step.seed or session.patterns,
        hugepages=step.hugepages,
        timeout=phase_seconds(size),
        detached=session.detached,
    )
    session.churn = tool
    record.add(ChurnHeld(record.now(), bytes=tool.held, seconds=tool.fill_seconds))
    session.phase("hold", f"{format_size(size)} for {step.hold:g} s")
    hold = Deadline(step.hold, "the end of the hold")
    while not hold.passed:
        session.vm.sleep_alive(min(0.2, hold.remaining))
    verify(session, VerifyStep())
    free(session, step.free, step.order)


def free(session: GuestSession, what: FreeWhat, order: int | None = None) -> None:
    """Free it, and record what the host held just before. `order`: of the blocks, where asked."""
    tool = _held(session)
    session.phase("free", what)
    zones = read_counters(session.vm.shell).zones
    before, discards = session.mapping.read(), session.discards.read()
    if what == "all":
        freed = tool.free_all()
        tool.close()
        session.churn = None
    elif what == "huge-page-tails":
        freed = tool.free_tails()
    else:
        wanted = session.reporting_order if order is None else order
        order = wanted if what == "half-of-blocks" else 0
        freed = tool.free_blocks(order=order, stride=2, offset=0)
    session.record.add(
        ChurnFreed(
            session.record.now(),
            bytes=freed.bytes,
            still_held=freed.held_bytes,
            before=before,
            discards_before=discards,
            zones_before=zones,
        )
    )


def verify(session: GuestSession, _step: VerifyStep) -> None:
    """Compare every word still held with its pattern. A mismatch is recorded, not raised."""
    tool = _held(session)
    session.phase("verify", format_size(tool.held))
    result = tool.verify(timeout=phase_seconds(tool.held))
    session.record.add(
        ChurnVerified(
            session.record.now(),
            bytes=result.bytes,
            mismatched_pages=result.mismatched_pages,
            detail=result.mismatches,
        )
    )


def release(session: GuestSession, _step: ReleaseStep) -> None:
    """Free whatever is still held."""
    free(session, "all")


def phase_seconds(size: int) -> float:
    """A deadline for writing or verifying `size` bytes."""
    return SLACK_SECONDS + size / SLOWEST_RATE


def _held(session: GuestSession) -> ChurnSession:
    if session.churn is None:
        raise ScenarioError(
            "the step needs memory held by a churn step before it, and none is held",
            hint="put a churn step with `free: half-of-blocks` before it",
        )
    return session.churn
