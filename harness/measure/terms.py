# SPDX-License-Identifier: Apache-2.0
"""The parts of a measure: name, unit, what takes it, and what it means if it is out of bounds.

`means_when_low` and `means_when_high` say what a failed expectation means. They are data that the
verdict interprets (`harness.verdict.causes`), so that this room knows nothing about causes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from harness.record.history import History


class Unit(StrEnum):
    BYTES = "bytes"
    SECONDS = "seconds"
    PAGES = "pages"
    COUNT = "count"
    FRACTION = "fraction"
    RATIO = "ratio"
    PER_SECOND = "faults per second"
    GIB_MINUTES = "GiB·min"


class TakenBy(Enum):
    """What is needed to take a measure."""

    RUN = auto()
    """Nothing in particular; it follows from what the run has done."""
    AUDIT = auto()
    """A page audit."""
    TRACED_AUDIT = auto()
    """A page audit, on a QEMU that traces its discards."""
    AUDIT_OR_HOST = auto()
    """A page audit, or a reading of the host's mapping alone by an `await` step."""


class Rule(Enum):
    """How the cause is found for a measure that is out of its bounds."""

    SHORTFALL = auto()
    """Too little came back, or too much is charged; the first layer that accounts for it."""
    CAME_BACK = auto()
    """Memory came back that should have stayed."""
    CAME_BACK_SOON = auto()
    """Memory came back sooner than it should."""
    PLACE = auto()
    """A node or zone gave too little back."""
    UNREPORTED = auto()
    """The host still holds free memory that the guest could report."""
    REPORTED_RESIDENT = auto()
    """The host still holds memory that the guest reported."""
    IN_BALLOON = auto()
    """The host still holds memory in the balloon, or plugged and not in use."""
    DISCARD_FAILED = auto()
    """QEMU failed to discard."""
    LAZY = auto()
    """Memory is lazily free that should be gone."""
    NOT_LAZY = auto()
    """Too little memory is lazily free: it is gone, or was never discarded."""
    SLOW = auto()
    """Memory came back too slowly."""
    WATERMARK = auto()
    """The guest broke the watermark rule, one way or the other."""
    RETAINED = auto()
    """The guest keeps memory; the reason that accounts for most of it."""
    LOST = auto()
    """Memory that the guest uses is gone."""
    CONSOLE = auto()
    """The guest's console shows trouble."""
    BLIND = auto()
    """Too little could be seen to judge."""

    # The meaning of these rules comes with a sentence of the measure.
    KEPT = auto()
    """The guest keeps memory that it should free."""
    STILL_CHARGED = auto()
    """The host keeps memory that it should release."""
    LAZY_UNTIL_PRESSED = auto()
    """The host got memory back only under memory pressure."""
    NOT_REPORTED = auto()
    """The guest did not report what it should report."""
    CONTROL = auto()
    """Something happened that a negative control rules out."""
    DAMAGE = auto()
    """Memory was given away that must not be."""
    MISCOUNTED = auto()
    """The guest's kernel contradicts itself."""
    OVERHEAD = auto()
    """Something takes too long, or gets too little done."""
    NOT_AS_WRITTEN = auto()
    """A precondition of the scenario was not met, so the run says nothing about reporting."""


@dataclass(frozen=True)
class Means:
    """What it means if a measure is out of its bounds in one direction."""

    rule: Rule
    words: str = ""
    """The sentence that explains it, for rules that have none themselves."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a run: what it is, how it is computed, what it means if it is out of bounds."""

    name: str
    """Ends with the unit if that is bytes, seconds, pages, a fraction or a ratio."""
    unit: Unit
    meaning: str
    taken_by: TakenBy = TakenBy.RUN
    means_when_low: Means
    means_when_high: Means
    compute: Callable[[History], float | None]
    """Returns the value, or None if the measure was not taken; bytes are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Measures of one kind, with a member for each place or way of measuring."""

    pattern: str
    """A regular expression that matches the whole name of every member."""
    unit: Unit
    meaning: str
    taken_by: TakenBy = TakenBy.RUN
    means_when_low: Means
    means_when_high: Means
    compute: Callable[[History], Mapping[str, float]]
    """Returns the members that were taken, by name."""

    @property
    def name(self) -> str:
        """The pattern in a readable form: `nodeN_ZONE_t90_seconds`."""
        shown = self.pattern.replace(r"(_order\d+)?", "[_orderN]")
        return shown.replace(r"\d+", "N").replace(r"[A-Z]\w*", "ZONE")

    def has(self, name: str) -> bool:
        """Whether a measure of that name belongs to the family."""
        return re.fullmatch(self.pattern, name) is not None


def overhead(words: str) -> Means:
    """Make the meaning of something that takes too long, or gets too little done."""
    return Means(Rule.OVERHEAD, words)


def not_as_written(words: str) -> Means:
    """Make the meaning of a precondition of the scenario that was not met."""
    return Means(Rule.NOT_AS_WRITTEN, words)
