# SPDX-License-Identifier: Apache-2.0
"""Was the host too busy with its own memory for the run to mean anything?"""

from harness.kernel.zones import HUGE_PAGE
from harness.record.history import History
from harness.units import MIB, PAGE_SIZE, format_size

STALL_LIMIT = 0.10
"""Share of the run in which some task waited for memory (PSI `some`) that makes it unusable."""

AVAILABLE_LIMIT = 128 * MIB
"""MemAvailable below this: the host is about to reclaim from everybody."""


def swap_noise(history: History) -> str | None:
    """What says that the host swapped guest memory out by itself, or None.

    Guest memory in swap without any sign of reclaim (no page stolen by kswapd, no stall) was put
    there deliberately, by whoever discards: that is no noise. Nor is it where the scenario itself
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
        f"{format_size(swapped)} of guest memory lie in its swap"
    )


def pressure_noise(history: History) -> str | None:
    """What says that the host was short of memory, or None."""
    swap = swap_noise(history)
    if swap is not None:
        return swap
    readings = [read.noise for read in history.noise]
    stalled = _moved(history, "psi_memory_some_us")
    if stalled and len(readings) > 1:
        seconds = readings[-1].at - readings[0].at
        if seconds > 0 and stalled / 1e6 > STALL_LIMIT * seconds:
            return (
                f"tasks on the host waited for memory in {stalled / 1e6:.1f} s of "
                f"{seconds:.1f} s (PSI)"
            )
    available = min((reading.mem_available for reading in readings), default=None)
    if available is not None and available < AVAILABLE_LIMIT:
        return f"the host had only {format_size(available)} of memory available"
    return None


def collapse_noise(history: History, resident: int) -> str | None:
    """What says that khugepaged could have brought back `resident` bytes given back, or None."""
    collapses = _moved(history, "thp_collapse")
    if not collapses or collapses * HUGE_PAGE < resident:
        return None
    return (
        f"khugepaged on the host made {collapses} huge pages during the run, which can have "
        f"brought back {format_size(resident)} that had been given back"
    )


def _moved(history: History, counter: str) -> int | None:
    """Growth of a counter from the first to the last reading; None where it was not read."""
    values = [getattr(read.noise, counter) for read in history.noise]
    if len(values) < 2 or values[0] is None or values[-1] is None:
        return None
    return int(values[-1]) - int(values[0])
