# SPDX-License-Identifier: Apache-2.0
"""The file of a page audit, from which it can be judged again."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import ObserveError, RecordError
from harness.kernel.pages import StateArray

_ARRAYS = ("before", "host", "after")
# What numpy and zipfile raise on a file that is missing, cut off, or not theirs.
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),
)


@dataclass(frozen=True)
class AuditReading:
    """Three arrays of one length, index = PFN.

    The guest's are as its tool sends them: REPORTED stands on the heads of reported blocks only.
    """

    before: StateArray
    """GuestState, read before the host."""
    host: StateArray
    """HostState; UNKNOWN where the guest has page frames and QEMU has no RAM."""
    after: StateArray
    """GuestState, read after the host."""
    guest_seconds: float
    """Both guest readings together."""
    host_seconds: float


def save_audit(path: Path, reading: AuditReading) -> None:
    """Write a compressed .npz, and its directory if need be. Raises RecordError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            before=reading.before,
            host=reading.host,
            after=reading.after,
            seconds=np.array([reading.guest_seconds, reading.host_seconds]),
        )
    except OSError as error:
        raise RecordError(f"cannot write the audit: {error}", evidence=(path,)) from error


def load_audit(path: Path) -> AuditReading:
    """Read what `save_audit` wrote. Raises ObserveError when it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            before, host, after = (stored[name] for name in _ARRAYS)
            guest_seconds, host_seconds = (float(value) for value in stored["seconds"])
    except _DAMAGE as error:
        raise ObserveError(f"cannot read the audit: {error}", evidence=(path,)) from error
    arrays = (before, host, after)
    if len({array.shape for array in arrays}) != 1 or any(
        array.dtype != np.uint8 or array.ndim != 1 for array in arrays
    ):
        raise ObserveError("the audit's arrays do not belong together", evidence=(path,))
    return AuditReading(before, host, after, guest_seconds, host_seconds)
