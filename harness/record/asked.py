# SPDX-License-Identifier: Apache-2.0
"""What a run is judged by: all that its scenario asks, as one argument."""

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
}
"""What holds in every scenario that can tell and does not say otherwise: no trouble on the console,
no memory lost that the churn tool held, none with the host that the guest has reported or that is
in the balloon, no discard that failed, and nothing that QEMU keeps elsewhere. A clean run grows by
up to 3 MiB outside guest memory (QEMU 7.2 under TCG)."""

IF_TAKEN = frozenset({"balloon_resident_bytes", "failed_discard_bytes", "outside_growth_bytes"})
"""Invariants that not every run can tell of: they hold where the measure was not taken."""


@dataclass(frozen=True)
class Asked:
    """What was asked of a run."""

    expect: Mapping[str, str] = field(default_factory=dict)
    """Condition by measure; those of single audits are in their events."""
    invariants: Mapping[str, str] = field(default_factory=dict)
    """Those of `INVARIANTS` that are to hold: condition by measure."""
    reporting_wanted: bool = False
    """Without free page reporting negotiated the run cannot pass, whatever it expects."""
    measured: frozenset[str] = frozenset()
    """Names of what the scenario's own steps measure."""
    answer: tuple[str, ...] = ()
    """Measures to show beside the verdict, those of an audit as `AUDIT.measure`; none: of a run
    without expectations all that its steps measure."""

    @property
    def conditions(self) -> dict[str, str]:
        """All conditions over the whole run. An expectation replaces the invariant of its name."""
        return {**self.expect, **{k: v for k, v in self.invariants.items() if k not in self.expect}}
