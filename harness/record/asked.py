# SPDX-License-Identifier: Apache-2.0
"""What a run is judged by: everything its scenario asks for, in one record."""

from collections.abc import Mapping
from dataclasses import dataclass, field

INVARIANTS: dict[str, str] = {
    "console_findings": "== 0",
    "held_absent_bytes": "== 0",
    "integrity_mismatched_pages": "== 0",
    "reported_resident_bytes": "== 0",
    "balloon_resident_bytes": "== 0",
    "failed_discard_bytes": "== 0",
    "outside_growth_bytes": "<= 16MiB",
    "withheld_bytes": "== 0",
    "free_drift_bytes": "<= 2MiB",
    "unreportable_zone_bytes": "== 0",
}
"""Conditions that every scenario expects unless it switches them off by name: no findings on the
console, no held memory lost, no reported memory and no memory in the balloon resident, no failed
discard, no growth of QEMU outside guest memory, no block taken to be reported and never put back,
no count of free pages that the free lists contradict, and no report of a zone that is always below
its watermark. A clean run grows by up to 3 MiB outside guest memory (QEMU 7.2 under TCG); a zone's
count lags by up to 125 pages for each CPU."""

IF_TAKEN = frozenset(
    {
        "balloon_resident_bytes",
        "failed_discard_bytes",
        "outside_growth_bytes",
        "withheld_bytes",
        "free_drift_bytes",
        "unreportable_zone_bytes",
    }
)
"""Invariants whose measures not every run can take; without the measure, they hold."""

AT_EVERY_AUDIT = ("reported_resident_bytes", "balloon_resident_bytes")
"""Invariants of every audit, where it could take the measure, and not of the run's end alone: the
guest may take or deflate the memory in question before the end."""


@dataclass(frozen=True)
class Asked:
    """What a scenario asks of its run."""

    expect: Mapping[str, str] = field(default_factory=dict)
    """Condition by measure, for the whole run; the conditions of an audit are in its event."""
    invariants: Mapping[str, str] = field(default_factory=dict)
    """The `INVARIANTS` that apply: condition by measure."""
    reporting_wanted: bool = False
    """Whether the run can pass only if free page reporting was negotiated."""
    measured: frozenset[str] = frozenset()
    """Names of the measures that the scenario's own steps take."""
    answer: tuple[str, ...] = ()
    """Measures to show with the verdict, `AUDIT.measure` for those of an audit. If empty, a run
    without expectations shows all measures that its steps take."""

    @property
    def page_invariants(self) -> dict[str, str]:
        """Those of `invariants` that an audit alone can tell, and the scenario does not replace."""
        names = (IF_TAKEN | set(AT_EVERY_AUDIT)) & set(self.invariants) - set(self.expect)
        return {name: self.invariants[name] for name in INVARIANTS if name in names}

    @property
    def conditions(self) -> dict[str, str]:
        """All conditions on the whole run; an expectation replaces the invariant of its name."""
        return {**self.expect, **{k: v for k, v in self.invariants.items() if k not in self.expect}}
