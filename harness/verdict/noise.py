# SPDX-License-Identifier: Apache-2.0
"""Decide whether activity of the host may explain what a run measured."""

from harness.kernel.zones import HUGE_PAGE
from harness.record.facts import Cause
from harness.record.history import History
from harness.units import MIB, PAGE_SIZE, format_size

STALL_LIMIT = 0.10
"""Fraction of the run in which some task waited for memory (PSI `some`) above which it is noise."""

CLOCK_RATE = 0.75
"""Rate of the guest's clock against the host's below which a settle says little. Measured under
TCG with twice as many idle guests as CPUs: within 3 % of 1."""

ROUNDED_LIMIT = 0.05
"""Fraction of what was given back that may be resident because of the host's huge pages. More than
that looks like discards without effect; seen: 1.6 %."""

AVAILABLE_LIMIT = 128 * MIB
"""MemAvailable in bytes below which a host that reclaims may have reclaimed from QEMU."""

EMPTIED_BY_SPLITS = frozenset(
    {
        "reclaimed_bytes",
        "reclaimed_fraction",
        "worst_reclaimed_fraction",
        "residue_growth_bytes",
        "unreported_free_bytes",
        "held_bytes",
        "rss_bytes",
        "charged_bytes",
        "worst_node_returned_fraction",
        "worst_zone_returned_fraction",
    }
)
"""Measures of what the host holds, from which the pages of zeros in a split huge page go."""

_PRESSURE_EXPLAINS = frozenset(
    {
        Cause.NOT_REPORTED,
        Cause.NOT_SETTLED,
        Cause.GUEST_RETAINED,
        Cause.STILL_CHARGED,
        Cause.OVERHEAD,
    }
)
"""Causes that memory pressure on the host can produce without a defect in reporting."""

_CLOCK_EXPLAINS = frozenset({Cause.NOT_REPORTED, Cause.NOT_SETTLED})
"""Causes that appear if the guest's clock stood still while the host's advanced."""


_NO_HOSTS = frozenset({"outside_growth_bytes", "withheld_bytes"})
"""Measures that nothing of a busy host moves: what QEMU took for itself, and what the guest's
kernel did not put back."""


def host_noise(history: History, measure: str, cause: Cause | None) -> str | None:
    """Say what the host did that may have put a measure out of its bounds, with that cause; None if
    nothing.
    """
    if measure in _NO_HOSTS:
        return None
    if measure == "balloon_resident_bytes":
        return rounding_noise(history, in_balloon=True)
    if cause is Cause.ACKED_NOT_DISCARDED:
        return collapse_noise(history) or rounding_noise(history, in_balloon=False)
    emptied = cause is Cause.CONTROL_BROKEN and measure in EMPTIED_BY_SPLITS
    if (measure == "huge_bytes" or emptied) and (merging := merge_noise(history)) is not None:
        return merging
    if cause is Cause.CONTROL_BROKEN and any(boot.discard == "free" for boot in history.boots):
        # Under memory pressure the host reclaims lazily free memory by itself.
        return pressure_noise(history) or lazy_noise(history)
    if cause in _CLOCK_EXPLAINS and (stalled := clock_noise(history)) is not None:
        return stalled
    return pressure_noise(history) if cause in _PRESSURE_EXPLAINS else None


def swap_noise(history: History) -> str | None:
    """Say that the host swapped out guest memory under pressure; None if it did not.

    Guest memory in swap without any sign of reclaim (no page stolen by kswapd, no stall) was put
    there by the layer that discards, which is not noise. Swap is not noise either if the scenario
    limits QEMU's memory.
    """
    if any(boot.memory_limit for boot in history.boots):
        return None
    swapped = max((audit.mapping.swap for audit in history.audits), default=0)
    out = _moved(history, "pswpout")
    if not swapped or not out:
        return None
    if _moved(history, "pgsteal_kswapd") == 0 and _moved(history, "psi_memory_some_us") == 0:
        return None
    return (
        f"the host swapped out {format_size(out * PAGE_SIZE)} during the run, and "
        f"{format_size(swapped)} of guest memory are in its swap"
    )


def pressure_noise(history: History) -> str | None:
    """Say that the host was short of memory; None if it was not."""
    swap = swap_noise(history)
    if swap is not None:
        return swap
    readings = [read.noise for read in history.noise]
    stalled = _moved(history, "psi_memory_some_us")
    if stalled and len(readings) > 1:
        seconds = readings[-1].at - readings[0].at
        if seconds > 0 and stalled / 1e6 > STALL_LIMIT * seconds:
            return (
                f"tasks on the host waited for memory during {stalled / 1e6:.1f} s of "
                f"{seconds:.1f} s (PSI)"
            )
    available = min((reading.mem_available for reading in readings), default=None)
    reclaimed = _moved(history, "pgsteal_kswapd") != 0 or stalled != 0
    if available is not None and available < AVAILABLE_LIMIT and reclaimed:
        return f"the host had only {format_size(available)} of memory available"
    return None


def lazy_noise(history: History) -> str | None:
    """Say that the host took lazily free memory without being short of any; None if it did not.

    DAMON's schemes do (DAMOS_PAGEOUT), and whatever writes to memory.reclaim. pglazyfreed counts it
    for the whole host (Linux 4.12, mm/vmscan.c), so it explains what came back only if it is as
    much.
    """
    taken = (_moved(history, "lazyfreed") or 0) * PAGE_SIZE
    came_back = history.rounds[-1].reclaimed if history.rounds else None
    if not taken or came_back is None or taken < came_back / 2:
        return None
    return (
        f"the host took {format_size(taken)} of lazily free memory during the run without being "
        "short of any (pglazyfreed), as DAMON and memory.reclaim do: switch that off"
    )


def collapse_noise(history: History) -> str | None:
    """Say that khugepaged may have made reported memory resident again; None if it cannot have.

    khugepaged fills up huge pages that are partly resident. This explains only reported memory
    that lies in such huge pages and was discarded before.
    """
    audit, collapses = history.audit, _moved(history, "thp_collapse")
    if audit is None or not collapses:
        return None
    report, discards = audit.report, history.discards_since_free
    resident = report.total.reported_resident
    if report.reported_undiscarded or (discards is not None and discards.failed_calls):
        return None
    if resident > min(report.collapsible, collapses * HUGE_PAGE):
        return None
    return (
        f"khugepaged on the host made {collapses} huge pages during the run, and all of the "
        f"{format_size(resident)} are in huge pages that it may have filled"
    )


def rounding_noise(history: History, *, in_balloon: bool) -> str | None:
    """Say that a page fault in memory that was given back may have filled up a huge page of the
    host; None if none can have.

    This explains a little memory, `in_balloon` or reported, in huge pages of which the guest uses
    another part.
    """
    audit, discards = history.audit, history.discards_since_free
    if audit is None or (discards is not None and discards.failed_calls):
        return None
    report, cells = audit.report, audit.report.total
    if in_balloon:
        resident, part = cells.offline_resident or 0, report.offline_collapsible
        given = resident + (cells.offline_absent or 0)
    else:
        resident, part, given = cells.reported_resident, report.collapsible, cells.reported
        if report.reported_undiscarded:
            return None
    if not 0 < resident <= min(part, audit.mapping.anon_huge, ROUNDED_LIMIT * given):
        return None
    return (
        f"all of the {format_size(resident)} are in huge pages of the host of which the guest uses "
        "another part, and which a page fault fills as a whole (--set host.thp=never)"
    )


def merge_noise(history: History) -> str | None:
    """Say that KSM merged QEMU's memory, for which it splits huge pages; None if it did not.

    try_to_merge_one_page() splits before it merges (mm/ksm.c, 4.5 to 6.18), and since 6.12 the
    split frees what holds only zeros (mm/migrate.c, try_to_map_unused_to_zeropage()). One merged
    page costs a whole huge page, so that what it explains has no bound below that.
    """
    merged = max((audit.mapping.merged or 0 for audit in history.audits), default=0)
    if not merged:
        return None
    return (
        f"KSM on the host had merged up to {format_size(merged)} of QEMU's memory; to do so it "
        "splits huge pages, which frees their pages of zeros (/sys/kernel/mm/ksm/run)"
    )


def clock_noise(history: History) -> str | None:
    """Say that the guest's clock was too slow for it to report in time; None if it was not."""
    virtual = history.ready is not None and history.ready.clock == "virtual"
    rate = history.settle.clock_rate if history.settle is not None and not virtual else None
    if rate is None or rate >= CLOCK_RATE:
        return None
    return (
        f"the guest's clock advanced by only {rate:.0%} of the host's during the settle: QEMU "
        "was stopped, or got too little CPU time"
    )


def _moved(history: History, counter: str) -> int | None:
    """Return the growth of a counter from the first to the last reading; None if it is unknown."""
    values = [getattr(read.noise, counter) for read in history.noise]
    if len(values) < 2 or values[0] is None or values[-1] is None:
        return None
    return int(values[-1]) - int(values[0])
