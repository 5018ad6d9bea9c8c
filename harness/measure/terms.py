# SPDX-License-Identifier: Apache-2.0
"""What a measure is made of: its name and unit, what takes it, and what it means when it is wrong.

`means_when_low` and `means_when_high` say what a failed expectation amounts to. They are data; the
verdict interprets them (`harness.verdict.causes`), so that numbers know nothing of causes.
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
    FRACTION = "part of 1"
    RATIO = "ratio"
    PER_SECOND = "faults a second"


class TakenBy(Enum):
    """What has to happen for a measure to be taken."""

    RUN = auto()
    """Nothing in particular: what the run has done tells it."""
    AUDIT = auto()
    """A page audit."""
    TRACED_AUDIT = auto()
    """A page audit, on a QEMU whose trace tells what it discards."""
    AUDIT_OR_HOST = auto()
    """A page audit, or a look at the host alone, as an `await` step takes it."""


class Rule(Enum):
    """How a cause is found for a measure that is out of its bounds."""

    SHORTFALL = auto()
    """Too little came back, or too much is charged: the first layer that accounts for it."""
    CAME_BACK = auto()
    """Memory came back that should have stayed."""
    CAME_BACK_SOON = auto()
    """Memory came back sooner than it should."""
    PLACE = auto()
    """A node or zone gave too little back."""
    UNREPORTED = auto()
    """Free memory that the guest could report is still with the host."""
    REPORTED_RESIDENT = auto()
    """Memory that the guest reported is still with the host."""
    DISCARD_FAILED = auto()
    """QEMU could not discard."""
    LAZY = auto()
    """Memory is lazily free that should be gone."""
    NOT_LAZY = auto()
    """Less is lazily free than should be: it is gone, or was never freed."""
    SLOW = auto()
    """Memory came back too slowly."""
    WATERMARK = auto()
    """The watermark rule was broken, one way or the other."""
    RETAINED = auto()
    """The guest keeps memory: for the reason that holds most of it."""
    LOST = auto()
    """Memory the guest uses is gone."""
    CONSOLE = auto()
    """The console shows trouble."""
    BLIND = auto()
    """Not enough could be seen for any judgement."""

    # These say what they mean in words of the measure's own.
    KEPT = auto()
    """The guest keeps what it was to let go."""
    NOT_DISCARDED = auto()
    """QEMU was given memory and did not discard it."""
    STILL_CHARGED = auto()
    """The host keeps what it was to let go."""
    LAZY_UNTIL_PRESSED = auto()
    """Memory went only once the host wanted it."""
    NOT_REPORTED = auto()
    """The guest did not report what it was to report."""
    CONTROL = auto()
    """A control did what it was there to show does not happen."""
    DAMAGE = auto()
    """Memory was given away that must not be."""
    OVERHEAD = auto()
    """Something takes too long, or gets too little done."""
    NOT_AS_WRITTEN = auto()
    """The scenario's own precondition was not met: the run says nothing about reporting."""


@dataclass(frozen=True)
class Means:
    """What it means that a measure is out of its bounds in one direction."""

    rule: Rule
    words: str = ""
    """What is so then, where the rule has no sentence of its own."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a run: what it is, how it is computed, what it means when it is wrong."""

    name: str
    """It ends with the unit where the unit is bytes, seconds, pages, a fraction or a ratio."""
    unit: Unit
    meaning: str
    taken_by: TakenBy = TakenBy.RUN
    means_when_low: Means
    means_when_high: Means
    compute: Callable[[History], float | None]
    """None where it was not taken. Bytes are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Measures of one kind for each place, or each way of measuring."""

    pattern: str
    """A regular expression that matches the whole name of every member."""
    unit: Unit
    meaning: str
    taken_by: TakenBy = TakenBy.RUN
    means_when_low: Means
    means_when_high: Means
    compute: Callable[[History], Mapping[str, float]]
    """By name, those that were taken."""

    @property
    def name(self) -> str:
        """The pattern as a person reads it: `nodeN_ZONE_t90_seconds`."""
        return self.pattern.replace(r"\d+", "N").replace(r"[A-Z]\w*", "ZONE")

    def has(self, name: str) -> bool:
        """Whether a measure of that name is one of them."""
        return re.fullmatch(self.pattern, name) is not None


def overhead(words: str) -> Means:
    """Too long, or too little done."""
    return Means(Rule.OVERHEAD, words)


def not_as_written(words: str) -> Means:
    """A precondition of the scenario that was not met."""
    return Means(Rule.NOT_AS_WRITTEN, words)
