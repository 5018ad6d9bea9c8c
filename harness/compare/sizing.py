# SPDX-License-Identifier: Apache-2.0
"""What each reporting order and delay saves and costs, and which to take. Pure.

The rule: of the settings that save at least `NEARLY` of what the best one saves, take the one that
takes least CPU; of those within `ALIKE` of it, which single runs do not tell apart, the one with
the largest order, then the longest delay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness.record.facts import Verdict
from harness.report.summary import RunSummary

NEARLY = 0.9
ALIKE = 0.05
"""Of the CPU time without reporting."""

WORTH = 0.02
"""Part of what the host holds without reporting; what saves less saves nothing."""

_CPU = ("qemu_main_cpu_seconds", "qemu_vcpus_cpu_seconds", "qemu_others_cpu_seconds")


@dataclass(frozen=True)
class Setting:
    """An order, and a delay between passes in seconds; None: the guest kernel's own."""

    order: int
    delay: float | None = None

    @property
    def name(self) -> str:
        if self.delay is None:
            return f"order-{self.order}"
        return f"order-{self.order}-{round(1000 * self.delay)}ms"

    @property
    def overrides(self) -> tuple[str, ...]:
        """As `--set` takes them."""
        more = () if self.delay is None else (f"steps[0].order.delay={self.delay:g}s",)
        return (f"steps[0].order.set={self.order}", *more)


OFF = "off"


@dataclass(frozen=True)
class Outcome:
    """The medians over the runs of one setting."""

    setting: Setting | None
    """None: reporting off."""
    runs: int
    held: float
    """Bytes that the host held, mean over the time."""
    footprint: float
    """GiB x minutes."""
    cpu: Mapping[str, float]
    """Seconds of QEMU's threads, by measure."""
    refill: float | None
    """Seconds a page, to write memory that had come back."""

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


def outcome(setting: Setting | None, runs: Sequence[RunSummary]) -> Outcome | None:
    """Sum up the runs of a setting; None if none of them measured all that it takes."""
    needed = ("held_mean_bytes", "footprint_gib_minutes", *_CPU)
    told = [
        run.measures
        for run in runs
        if run.verdict in (Verdict.PASS, Verdict.DONE)
        and set(needed) <= run.measures.keys()
        and _was_set(setting, run.measures)
    ]
    if not told:
        return None
    values = {name: median(measures[name] for measures in told) for name in needed}
    refills = [m["refill_page_seconds"] for m in told if "refill_page_seconds" in m]
    return Outcome(
        setting,
        len(told),
        values["held_mean_bytes"],
        values["footprint_gib_minutes"],
        {name: values[name] for name in _CPU},
        median(refills) if refills else None,
    )


def _was_set(setting: Setting | None, measures: Mapping[str, float]) -> bool:
    """Whether the guest reported at that order; a kernel may refuse one and keep its own."""
    return setting is None or measures.get("order_read") == setting.order


def recommend(off: Outcome, found: Sequence[Outcome]) -> Outcome | None:
    """Choose by the rule above; None if nothing saves anything."""
    saving = [each for each in found if saved(off, each) > WORTH * off.held]
    if not saving:
        return None
    most = max(saved(off, each) for each in saving)
    nearly = [each for each in saving if saved(off, each) >= NEARLY * most]
    least = min(each.cpu_seconds for each in nearly)
    alike = [each for each in nearly if each.cpu_seconds <= least + ALIKE * off.cpu_seconds]
    return max(alike, key=_preference)


def saved(off: Outcome, each: Outcome) -> float:
    """Bytes that the host held less than without reporting, mean over the time."""
    return off.held - each.held


def _preference(each: Outcome) -> tuple[int, float]:
    assert each.setting is not None
    return each.setting.order, each.setting.delay or 0.0
