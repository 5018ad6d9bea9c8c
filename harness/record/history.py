# SPDX-License-Identifier: Apache-2.0
"""The history of a run: what its events say up to one moment, for the measures and the verdict.

`harness.record.folding` makes it. It holds the earlier histories that a judgement goes back to: as
it was at each audit, and at the end of each round. They share all they have in common.
"""

from dataclasses import dataclass

from harness.record.events import (
    AttemptCrashed,
    Audited,
    Ballooned,
    Broke,
    BusyEnded,
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
    Pressed,
    Raced,
    SamplingEnded,
    Settled,
    Suspended,
)
from harness.record.facts import DiscardTotals


@dataclass(frozen=True)
class Round:
    """From a free to the next taking or freeing of memory: what was freed and where it ended."""

    freed: ChurnFreed
    before: "History | None"
    """As it was at the last audit before the free."""
    settled: Settled | None = None
    """The last settle of the round."""
    held: int | None = None
    """HostMapping.held as the last settle, audit or pressure of the round saw it."""

    @property
    def reclaimed(self) -> int | None:
        """Bytes the host got back; negative where it holds more than before the free."""
        return None if self.held is None else self.freed.before.held - self.held

    @property
    def fraction(self) -> float | None:
        """The part of what was freed that the host got back; None where nothing was freed."""
        if self.reclaimed is None or not self.freed.bytes:
            return None
        return self.reclaimed / self.freed.bytes


@dataclass(frozen=True)
class Trouble:
    """A console finding, and what the guest was doing when it came."""

    finding: ConsoleFinding
    in_steps: bool
    """The scenario's first step had begun."""
    under_kvm: bool


@dataclass(frozen=True, eq=False)
class History:
    """What a run's events say up to one moment."""

    schema: int = 0
    """Of the record (`harness.record.events.SCHEMA`); 0: it does not say."""
    boots: tuple[GuestReady, ...] = ()
    """Every guest that answered, the first of them being the scenario's."""
    in_steps: bool = False
    """The scenario's first step has begun."""
    order: int = -1
    """The order the guest reports at; -1 where none was read."""
    orders: tuple[OrderRead, ...] = ()
    driver: DriverChanged | None = None
    """The balloon driver's latest change."""

    fills: tuple[ChurnHeld, ...] = ()
    held_by_churn: int = 0
    """Bytes the churn tool holds."""
    verifications: tuple[ChurnVerified, ...] = ()
    rounds: tuple[Round, ...] = ()
    in_round: bool = False
    """The latest round has not ended."""
    round_ends: tuple["History", ...] = ()
    """As it was when each round ended; the latest round is not among them while it goes on."""

    settle: Settled | None = None
    """The latest settle, unless memory was taken or freed since."""
    settles: tuple[Settled, ...] = ()
    """Those after the first free; what booting has freed settles before it."""

    audits: tuple[Audited, ...] = ()
    audit: Audited | None = None
    """The latest audit, unless memory was taken, freed or moved since: then it is out of date."""
    at_audits: tuple["History", ...] = ()
    """As it was at each audit before this moment; the last of `audits` is that audit in each."""
    losses: tuple[ChurnVerified | Audited, ...] = ()
    """Every proof that the guest lost data, in order."""
    trace_broken: bool = False
    """Discards can no longer be counted from the latest free."""

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
    """Numbers of the steps' own."""

    contradictions: tuple[str, ...] = ()
    """What was told before and told otherwise later, a sentence each."""
    crashed_boots: tuple[AttemptCrashed, ...] = ()
    """Guests that crashed before the first step, those of earlier attempts first."""
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
        """The scenario's guest; None where it never answered."""
        return self.boots[0] if self.boots else None

    def at(self, audit_name: str) -> "History | None":
        """As it was at the last audit of that name before this moment."""
        named = (then for then in reversed(self.at_audits) if then.audits[-1].name == audit_name)
        return next(named, None)

    def round_end(self, number: int) -> "History":
        """As it was at the end of a round, counted from 0; now, where the round goes on."""
        return self.round_ends[number] if number < len(self.round_ends) else self

    @property
    def discards_since_free(self) -> DiscardTotals | None:
        """What QEMU discarded up to the current audit: since the latest free, or since launch.

        None where it was not read; where the guest moved after that free, because the other QEMU's
        trace knows nothing of it; and where memory was plugged or unplugged, because a trace says
        where a discard was only while that memory is there.
        """
        now = self.audit.discards if self.audit is not None else None
        if not self.rounds:
            return now
        before = self.rounds[-1].freed.discards_before
        if self.trace_broken or now is None or before is None:
            return None
        return now.since(before)
