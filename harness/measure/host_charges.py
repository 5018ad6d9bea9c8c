# SPDX-License-Identifier: Apache-2.0
"""Measures of what the host holds for the guest's memory, by its different accounts."""

from collections.abc import Callable

from harness.measure.terms import (
    Means,
    Measure,
    Rule,
    TakenBy,
    Unit,
    not_as_written,
    overhead,
)
from harness.record.facts import HostMapping
from harness.record.history import History

_SHORTFALL, _CAME_BACK = Means(Rule.SHORTFALL), Means(Rule.CAME_BACK)

_READ: dict[str, Callable[[HostMapping], float | None]] = {
    "held_bytes": lambda mapping: mapping.held,
    "rss_bytes": lambda mapping: mapping.rss,
    "lazyfree_bytes": lambda mapping: mapping.lazyfree,
    "huge_bytes": lambda mapping: mapping.anon_huge,
    "swapped_bytes": lambda mapping: mapping.swap,
    "charged_bytes": lambda mapping: mapping.cgroup_current,
    "file_bytes": lambda mapping: mapping.file_blocks,
    "merged_bytes": lambda mapping: mapping.merged,
}


def host_measures(mapping: HostMapping) -> dict[str, float]:
    """Return the measures of a reading of the host's mapping, without an audit."""
    found = {name: read(mapping) for name, read in _READ.items()}
    return {name: value for name, value in found.items() if value is not None}


def _measure(name: str, meaning: str, *, low: Means, high: Means = _SHORTFALL) -> Measure:
    """Make a measure in bytes that audits and `await` steps take."""
    read = _READ[name]
    return Measure(
        name=name,
        unit=Unit.BYTES,
        meaning=meaning,
        taken_by=TakenBy.AUDIT_OR_HOST,
        means_when_low=low,
        means_when_high=high,
        compute=lambda history: None if history.audit is None else read(history.audit.mapping),
    )


def _pressed(history: History) -> int | None:
    pressed = history.pressed
    return None if pressed is None else pressed.before.held - pressed.after.held


def _outside_growth(history: History) -> int | None:
    """Compute the growth; None without a free, or if memory was plugged or moved after it."""
    if history.audit is None or not history.rounds or history.trace_broken:
        return None
    before, now = history.rounds[-1].freed.before.outside, history.audit.mapping.outside
    return None if before is None or now is None else now - before


MEASURES = (
    _measure(
        "held_bytes",
        "bytes that the host holds for guest memory: resident and swapped, or the blocks of the "
        "file behind it",
        low=_CAME_BACK,
    ),
    _measure("rss_bytes", "bytes of guest memory resident in QEMU", low=_CAME_BACK),
    _measure(
        "file_bytes",
        "bytes allocated to the file or memfd behind guest memory; absent without one",
        low=_CAME_BACK,
    ),
    _measure(
        "charged_bytes",
        "bytes that QEMU's control group is charged with; absent if QEMU has none of its own",
        low=_CAME_BACK,
    ),
    _measure(
        "swapped_bytes",
        "bytes of guest memory in the host's swap",
        low=not_as_written("the host swapped out less guest memory than the scenario sets up"),
    ),
    _measure(
        "merged_bytes",
        "bytes of QEMU that the host's KSM has merged with equal pages; absent before Linux 5.19",
        low=not_as_written("the host's KSM merged less memory than the scenario sets up"),
    ),
    _measure(
        "lazyfree_bytes",
        "bytes of guest memory that are lazily free (MADV_FREE): the host holds them until it "
        "comes under memory pressure",
        low=Means(Rule.NOT_LAZY),
        high=Means(Rule.LAZY),
    ),
    _measure(
        "huge_bytes",
        "bytes of guest memory that the host holds in anonymous huge pages",
        low=overhead("the host split huge pages, and holds their memory in small pages"),
    ),
    Measure(
        name="outside_growth_bytes",
        unit=Unit.BYTES,
        meaning="bytes by which QEMU has grown outside guest memory and TCG's translation buffer "
        "since the latest free",
        taken_by=TakenBy.AUDIT,
        means_when_low=not_as_written("QEMU shrank outside guest memory"),
        means_when_high=Means(
            Rule.STILL_CHARGED,
            "memory left the mappings of guest memory, but QEMU grew elsewhere",
        ),
        compute=_outside_growth,
    ),
    Measure(
        name="pressed_bytes",
        unit=Unit.BYTES,
        meaning="bytes that the host reclaimed from QEMU in the latest `pressure` step",
        means_when_low=Means(
            Rule.STILL_CHARGED,
            "even under pressure, the host did not reclaim memory that the guest had given back",
        ),
        means_when_high=Means(
            Rule.LAZY_UNTIL_PRESSED,
            "the host got memory back only under pressure that should have come back before",
        ),
        compute=_pressed,
    ),
)
