# SPDX-License-Identifier: Apache-2.0
"""The history of a run: what its events say up to one moment, for the measures and the verdict.

`harness.record.folding` makes it. It keeps the earlier histories that a judgement needs: those at
each audit and at the end of each round. Histories share their common parts.
"""

from dataclasses import dataclass, replace

from harness.record.events import (
    AttemptBroke,
    AttemptCrashed,
    Audited,
    Ballooned,
    Broke,
    BusyEnded,
    ChurnAsked,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    ConsoleFinding,
    CrowdFull,
    CrowdGrew,
    DevicePlugged,
    DriverChanged,
    FaultRate,
    GuestMoved,
    GuestReady,
    Measured,
    NoiseRead,
    OrderRead,
    PhaseStarted,
    Pressed,
    Raced,
    Sample,
    SamplingEnded,
    Settled,
    Suspended,
    Witnessed,
)
from harness.record.facts import DiscardTotals


@dataclass(frozen=True)
class Round:
    """From one free to the next fill or free: what was freed, and what came back."""

    freed: ChurnFreed
    before: "History | None"
    """The history at the last audit before the free."""
    settled: Settled | None = None
    """The last settle of the round."""
    held: int | None = None
    """HostMapping.held at the last settle, audit or host pressure of the round."""

    @property
    def reclaimed(self) -> int | None:
        """Bytes that came back to the host; negative if it holds more than before the free."""
        return None if self.held is None else self.freed.before.held - self.held

    @property
    def fraction(self) -> float | None:
        """Share of the freed bytes that came back to the host; None if nothing was freed."""
        if self.reclaimed is None or not self.freed.bytes:
            return None
        return self.reclaimed / self.freed.bytes


@dataclass(frozen=True)
class Waited:
    """A settle, and what the sampler saw meanwhile."""

    settled: Settled
    began: float | None
    """When its phase began; None if the record does not say."""
    samples: tuple[Sample, ...]
    """From then on."""
    after: Sample | None = None
    """The next one."""


@dataclass(frozen=True)
class Footprint:
    """What the host held over the time of the steps, by trapezoids between samples."""

    seconds: float = 0.0
    byte_seconds: float = 0.0
    first: Sample | None = None
    last: Sample | None = None

    def after(self, sample: Sample) -> "Footprint":
        """Take a sample in; one without what the host held is passed over."""
        if sample.held is None:
            return self
        if self.last is None or self.last.held is None:
            return replace(self, first=sample, last=sample)
        took = sample.t - self.last.t
        area = took * (self.last.held + sample.held) / 2
        return Footprint(self.seconds + took, self.byte_seconds + area, self.first, sample)


@dataclass(frozen=True)
class Trouble:
    """A console finding, and the state of the run at that time."""

    finding: ConsoleFinding
    in_steps: bool
    """Whether the scenario's first step had begun."""
    under_kvm: bool
    asked: ChurnAsked | None
    """What the churn tool was filling or holding."""


@dataclass(frozen=True, eq=False)
class History:
    """What a run's events say up to one moment."""

    schema: int = 0
    """Of the record (`harness.record.events.SCHEMA`); 0: it does not say."""
    boots: tuple[GuestReady, ...] = ()
    """Every guest that answered; the first is the scenario's."""
    in_steps: bool = False
    """Whether the scenario's first step has begun."""
    order: int = -1
    """The reporting order of the guest; -1 if it was not read."""
    orders: tuple[OrderRead, ...] = ()
    driver: DriverChanged | None = None
    """The balloon driver's latest change."""

    asked: ChurnAsked | None = None
    """What the churn tool fills or holds."""
    fills: tuple[ChurnHeld, ...] = ()
    held_by_churn: int = 0
    """Bytes the churn tool holds."""
    verifications: tuple[ChurnVerified, ...] = ()
    rounds: tuple[Round, ...] = ()
    in_round: bool = False
    """Whether the latest round is still in progress."""
    round_ends: tuple["History", ...] = ()
    """The history at the end of each round that has ended."""

    settle: Settled | None = None
    """The latest settle; None if memory was filled or freed since."""
    settles: tuple[Settled, ...] = ()
    """All settles after the first free; earlier ones only settle what booting freed."""
    waits: tuple[Waited, ...] = ()
    """All settles."""
    phase: PhaseStarted | None = None
    """The latest phase of a settle, while it goes on."""
    footprint: Footprint = Footprint()
    watched: tuple[Sample, ...] = ()
    """The samples since it began."""

    audits: tuple[Audited, ...] = ()
    audit: Audited | None = None
    """The latest audit; None if memory was filled, freed or moved since, which makes it stale."""
    at_audits: tuple["History", ...] = ()
    """The history at each audit so far; in each of them, that audit is the last of `audits`."""
    losses: tuple[ChurnVerified | Audited | Witnessed, ...] = ()
    """Every proof that the guest lost data, in order."""
    witnessed: tuple[Witnessed, ...] = ()
    trace_broken: bool = False
    """Whether the discards since the latest free cannot be counted."""

    pressed: Pressed | None = None
    ballooned: Ballooned | None = None
    busy_sizes: tuple[int, ...] = ()
    """Bytes that each busy process takes in a round."""
    busy: tuple[BusyEnded, ...] = ()
    races: tuple[Raced, ...] = ()
    sleeps: tuple[Suspended, ...] = ()
    plugs: tuple[DevicePlugged, ...] = ()
    moves: tuple[GuestMoved, ...] = ()
    crowd: tuple[CrowdGrew, ...] = ()
    crowd_full: CrowdFull | None = None
    fault_rates: tuple[FaultRate, ...] = ()
    own: tuple[Measured, ...] = ()
    """Measures taken by the scenario's own steps."""

    contradictions: tuple[str, ...] = ()
    """What was told before and told otherwise later, a sentence each."""
    crashed_boots: tuple[AttemptCrashed, ...] = ()
    """Guests that crashed before the first step, earlier attempts first."""
    broken_attempts: tuple[AttemptBroke, ...] = ()
    """Earlier attempts that the infrastructure broke, in their order."""
    troubles: tuple[Trouble, ...] = ()
    noise: tuple[NoiseRead, ...] = ()
    samples: int = 0
    """How many were taken."""
    sampled: tuple[SamplingEnded, ...] = ()
    broke: Broke | None = None
    """The first error that ended the run."""
    steps_done: bool = False

    @property
    def ready(self) -> GuestReady | None:
        """The scenario's guest; None if it never answered."""
        return self.boots[0] if self.boots else None

    def at(self, audit_name: str) -> "History | None":
        """Return the history at the latest audit of that name; None if there is none."""
        named = (then for then in reversed(self.at_audits) if then.audits[-1].name == audit_name)
        return next(named, None)

    def round_end(self, number: int) -> "History":
        """Return the history at the end of a round, counted from 0; self if it has not ended."""
        return self.round_ends[number] if number < len(self.round_ends) else self

    @property
    def discards_since_free(self) -> DiscardTotals | None:
        """What QEMU discarded from the latest free (or from launch) to the current audit.

        None if it was not read, or cannot be told: after the guest moved to another QEMU, whose
        trace does not know the earlier discards, or after memory hotplug, because a trace's
        addresses are valid only while the memory is plugged.
        """
        now = self.audit.discards if self.audit is not None else None
        if not self.rounds:
            return now
        before = self.rounds[-1].freed.discards_before
        if self.trace_broken or now is None or before is None:
            return None
        return now.since(before)
