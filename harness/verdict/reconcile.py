# SPDX-License-Identifier: Apache-2.0
"""Reconcile three ledgers: what the guest reported, what QEMU discarded, what the host released.

The first pair of neighbouring ledgers that disagrees names the layer at fault.
"""

import errno
import os
from dataclasses import dataclass

from harness.kernel.zones import block_size
from harness.measure.usable import usable_audit
from harness.record.facts import Cause
from harness.record.history import History
from harness.units import format_size


@dataclass(frozen=True)
class Ledgers:
    """The three ledgers over the latest round, in bytes; None if not measured.

    Falls and growth are counted from the moment before the latest free, and are None without one.
    """

    reported_resident: int
    """Bytes in blocks reported and not allocated since, which the host still holds."""
    reported_undiscarded: int | None
    """Bytes in blocks reported and not allocated since, which no traced discard covers."""
    reported_resident_pfns: tuple[int, ...]
    discarded: int | None
    discards_failed: int | None
    discard_errno: int
    """Of the latest discard that failed; 0: not known."""
    file_rss_fall: int | None
    """Of the pages of a file that QEMU has mapped; without its private copies of them."""
    file_blocks_fall: int | None
    """None for anonymous memory."""
    lazyfree: int
    """Lazily free bytes; stock QEMU never uses MADV_FREE."""
    swap_growth: int | None
    skipped: str
    """Why QEMU skips such reports, as far as the run knows."""
    moved: bool
    """The guest has come from another QEMU, whose discards are in no trace of this one."""
    hibernated: bool
    """The guest has hibernated: another kernel ran in its memory before it came back."""
    too_small: str = ""
    """That the guest reports blocks smaller than the pages behind its memory; empty if not."""


@dataclass(frozen=True)
class Disagreement:
    """The first pair of ledgers that disagrees."""

    cause: Cause
    size: int
    """Bytes by which the two ledgers disagree."""
    sentence: str


def ledgers_of(history: History) -> Ledgers | None:
    """Return the ledgers at the current audit; None without a usable one."""
    audit = usable_audit(history)
    if audit is None:
        return None
    report, now = audit.report, audit.mapping
    before = history.rounds[-1].freed.before if history.rounds else None
    discards = history.discards_since_free
    blocks_fall = None
    if before is not None and before.file_blocks is not None and now.file_blocks is not None:
        blocks_fall = before.file_blocks - now.file_blocks
    return Ledgers(
        reported_resident=report.total.reported_resident,
        reported_undiscarded=report.reported_undiscarded,
        reported_resident_pfns=report.reported_resident_pfns,
        discarded=discards.bytes if discards else None,
        discards_failed=discards.failed_bytes if discards else None,
        discard_errno=discards.errno if discards else 0,
        file_rss_fall=before.shmem - now.shmem if before else None,
        file_blocks_fall=blocks_fall,
        lazyfree=now.lazyfree,
        swap_growth=now.swap - before.swap if before else None,
        skipped=_why_skipped(history),
        moved=any(move.how != "cancelled" for move in history.moves),
        hibernated=any(sleep.state == "disk" for sleep in history.sleeps),
        too_small=_too_small(history),
    )


def reconcile(ledgers: Ledgers, block_bytes: int) -> Disagreement | None:
    """Return the first pair that disagrees, from the guest outwards; None if all agree.

    Reported pages that are undiscarded or resident are not tolerated at all. The host's own
    counters may vary by less than `block_bytes`.
    """
    return _guest_to_qemu(ledgers) or _qemu_to_host(ledgers, block_bytes)


def _guest_to_qemu(ledgers: Ledgers) -> Disagreement | None:
    if ledgers.discards_failed:
        return Disagreement(
            Cause.ACKED_NOT_DISCARDED,
            ledgers.discards_failed,
            f"QEMU failed to discard {format_size(ledgers.discards_failed)} the guest reported"
            f"{_by_errno(ledgers.discard_errno)}, and the guest counts them as given back: see "
            "qemu.log",
        )
    undiscarded = min(ledgers.reported_undiscarded or 0, ledgers.reported_resident)
    if undiscarded and ledgers.moved:
        return Disagreement(
            Cause.STILL_CHARGED,
            undiscarded,
            f"populated by the move: {format_size(undiscarded)} the guest reported are resident in "
            "the QEMU that it came to, whose trace shows no discard of them: what was given back "
            f"was filled again when the guest moved there{_where(ledgers)}",
        )
    if undiscarded:
        return Disagreement(
            Cause.ACKED_NOT_DISCARDED,
            undiscarded,
            f"{format_size(undiscarded)} the guest reported are still resident on the host: "
            "QEMU's trace shows no discard of them, so QEMU acknowledged the report and skipped it "
            f"({ledgers.skipped}){_where(ledgers)}",
        )
    return None


_PAGE_POISON = 4
"""VIRTIO_BALLOON_F_PAGE_POISON, include/uapi/linux/virtio_balloon.h."""


def _why_skipped(history: History) -> str:
    """Say why virtio_balloon_handle_report() skips reports that it acknowledges.

    It does so if discards are inhibited, if the guest announced a poison value other than zero, and
    for what is not aligned to the pages of the memory (hw/virtio/virtio-balloon.c, QEMU 5.1 to 11).
    """
    if too_small := _too_small(history):
        return too_small
    boot = history.boots[-1] if history.boots else None
    poison = boot.features[_PAGE_POISON : _PAGE_POISON + 1] if boot is not None else ""
    if poison == "1":
        return "the guest announced a value that its free pages hold, which a discard would lose"
    if poison == "0":
        return "a device inhibits discards; the guest announced no poison value"
    return "discards inhibited by a device, or a poison value"


def _too_small(history: History) -> str:
    boot = history.boots[-1] if history.boots else None
    block = block_size(history.order)
    page = boot.host_page if boot is not None and boot.host_page is not None else block
    if block >= page:
        return ""
    return (
        f"a block of order {history.order} has {format_size(block)}, less than the pages of "
        f"{format_size(page)} behind guest memory, of which QEMU discards no part"
    )


def _qemu_to_host(ledgers: Ledgers, block_bytes: int) -> Disagreement | None:
    """Return the way in which discards had no effect, by the most bytes; None if they had."""
    resident = ledgers.reported_resident
    seen = (
        "QEMU's trace shows the discards, so the host kept them, or something has touched them "
        "since"
        if ledgers.reported_undiscarded is not None
        else "without QEMU's trace it is unknown whether QEMU discarded them"
    )
    if ledgers.hibernated and ledgers.reported_undiscarded is not None:
        seen = (
            "QEMU's trace shows the discards; the kernel that booted to bring the guest back from "
            "its disk may have used them since"
        )
    if ledgers.too_small and ledgers.reported_undiscarded is not None:
        seen = (
            "QEMU's trace shows discards of them as parts of larger blocks; a page of the host's "
            f"fills as a whole when the guest uses any part of it again, and {ledgers.too_small}"
        )
    ways = [
        Disagreement(
            Cause.LAZILY_FREE,
            ledgers.lazyfree,
            f"{format_size(ledgers.lazyfree)} of guest memory are lazily free: the host keeps them "
            "resident until it comes under pressure (MADV_FREE instead of MADV_DONTNEED)",
        )
    ]
    if ledgers.file_blocks_fall is not None:
        gone = [n for n in (ledgers.file_rss_fall, ledgers.discarded) if n is not None]
        kept = min(gone, default=0) - ledgers.file_blocks_fall
        ways.append(
            Disagreement(
                Cause.STILL_CHARGED,
                kept,
                f"{format_size(kept)} left QEMU's mapping but not the file behind guest memory: "
                "the host still holds its blocks (unmapped without punching a hole)",
            )
        )
    if ledgers.swap_growth is not None:
        # Used memory may be swapped out too; only reported pages should not be there.
        swapped = min(ledgers.swap_growth, resident)
        ways.append(
            Disagreement(
                Cause.STILL_CHARGED,
                swapped,
                f"{format_size(swapped)} the guest reported went to the host's swap instead of "
                f"being given back{_where(ledgers)}",
            )
        )
    worst = max(ways, key=lambda way: way.size)
    # These ways also keep reported pages resident, and explain them if they are large enough.
    if worst.size >= max(block_bytes, resident / 2):
        return worst
    if not resident:
        return None
    return Disagreement(
        Cause.ACKED_NOT_DISCARDED,
        resident,
        f"{format_size(resident)} the guest reported are still resident on the host: "
        f"{seen}{_where(ledgers)}",
    )


def _by_errno(number: int) -> str:
    """Which error it was, in the kernel's words: ` (EINVAL, Invalid argument)`."""
    return f" ({errno.errorcode.get(number, number)}, {os.strerror(number)})" if number else ""


def _where(ledgers: Ledgers) -> str:
    pfns = ledgers.reported_resident_pfns
    return f" (first at PFN {pfns[0]:#x})" if pfns else ""
