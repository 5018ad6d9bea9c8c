# SPDX-License-Identifier: Apache-2.0
"""How soon a guest reuses the memory it reported: a busy guest's wasted reports."""

from collections.abc import Sequence
from dataclasses import dataclass

REUSE_SECONDS = (1, 5, 30)
"""Horizons of the reuse curve: memory reused this soon after its discard gained the host little."""


@dataclass(frozen=True)
class Discarded:
    """Bytes that QEMU discarded at `at` (seconds), and when the guest reused the first of them."""

    at: float
    bytes: int
    reused_at: float | None
    """Seconds; None if not by the end of the watch."""


def reuse_curve(discards: Sequence[Discarded], end: float) -> dict[int, float]:
    """Compute the share of the discarded bytes reused within each of `REUSE_SECONDS`.

    Each horizon counts only the discards watched for that long before `end`; without any, it is
    absent.
    """
    curve = {}
    for seconds in REUSE_SECONDS:
        watched = [discard for discard in discards if discard.at + seconds <= end]
        size = sum(discard.bytes for discard in watched)
        if size:
            reused = sum(
                discard.bytes
                for discard in watched
                if discard.reused_at is not None and discard.reused_at - discard.at <= seconds
            )
            curve[seconds] = reused / size
    return curve
