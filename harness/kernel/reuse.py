# SPDX-License-Identifier: Apache-2.0
"""How soon a guest uses again what it has reported: the wasted reports of a busy guest."""

from collections.abc import Sequence
from dataclasses import dataclass

REUSE_SECONDS = (1, 5, 30)
"""A discard whose memory is used again within so long gave the host little."""


@dataclass(frozen=True)
class Discarded:
    """Bytes that QEMU discarded at `at`, and when the guest was first seen to use them again."""

    at: float
    bytes: int
    reused_at: float | None
    """None: not until the end of the watch."""


def reuse_curve(discards: Sequence[Discarded], end: float) -> dict[int, float]:
    """Share of the discarded bytes used again within each of `REUSE_SECONDS`, over those discards
    that were watched for so long before `end`; a horizon nobody watched is absent.
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
