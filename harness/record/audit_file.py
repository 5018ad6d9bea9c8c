# SPDX-License-Identifier: Apache-2.0
"""The file of a page audit: all that its report was computed from, so that it can be done again.

A .npz, which is a zip archive of numpy arrays: `before`, `host`, `after` and, but for the first
audit, `seen`, a byte a page frame; the coverage of the discards as bits, where there is a trace;
and `facts`, the rest as JSON. A guest of 1 GiB makes some 5 KB.
"""

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from harness.errors import ObserveError, RecordError
from harness.kernel.blocks import BoolArray
from harness.kernel.losses import DiscardCoverage
from harness.kernel.oracle import reduce_audit
from harness.kernel.pages import AuditReport, GuestState, HostState, Seen, StateArray
from harness.kernel.zones import Zone
from harness.record.address_map import RamPiece

MOST_PAGES = 1 << 28
"""Page frames of a guest of 1 TiB: a file that claims more is not believed."""

MOST_FACTS = 1 << 20
"""Bytes of JSON; a guest of 64 nodes has 100 KB."""

_STATES = {"before": max(GuestState), "host": max(HostState), "after": max(GuestState)}
"""Arrays of states, and the highest number that is one."""

_COVERAGE = tuple(field.name for field in fields(DiscardCoverage))

# What zipfile and numpy raise on a file that is missing, cut off, or not theirs.
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, IndexError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, NotImplementedError),
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


@dataclass(frozen=True)
class AuditFacts:
    """What an audit rests on beside the pages."""

    at: float
    """Seconds since the run began."""
    zones: tuple[Zone, ...]
    reporting_order: int
    moved: bool
    """The guest came from another QEMU."""
    pieces: tuple[RamPiece, ...]
    """Where the pages lie in QEMU's memory."""
    held_by: tuple[int, ...]
    """Processes of the guest whose pages read HELD."""
    discard_log: str
    """The trace of the QEMU that was looked at, from the run's directory."""


@dataclass(frozen=True)
class AuditInputs:
    """All that an audit's report is computed from."""

    reading: AuditReading
    seen: StateArray | None
    """Per page a `Seen` of the audits before; None: it is the first."""
    discards: DiscardCoverage | None
    """By then; None without a trace."""
    facts: AuditFacts

    def reduce(self) -> tuple[AuditReport, StateArray]:
        """The report, and the `seen` of the next audit."""
        return reduce_audit(
            self.reading.before,
            self.reading.host,
            self.reading.after,
            zones=self.facts.zones,
            reporting_order=self.facts.reporting_order,
            seen=self.seen,
            discards=self.discards,
            moved=self.facts.moved,
            at=self.facts.at,
            guest_seconds=self.reading.guest_seconds,
            host_seconds=self.reading.host_seconds,
        )


@dataclass(frozen=True)
class _Stored:
    """The JSON of a file."""

    guest_seconds: float
    host_seconds: float
    facts: AuditFacts
    has_seen: bool
    """Whether there is such an array: one that got lost must not read as one that never was."""
    has_discards: bool


_STORED: TypeAdapter[_Stored] = TypeAdapter(_Stored)


def save_audit(path: Path, inputs: AuditInputs) -> str:
    """Write the file, and its directory if need be; returns its SHA-256. Raises RecordError."""
    reading = inputs.reading
    pages = len(reading.host)
    arrays: dict[str, StateArray] = {name: getattr(reading, name) for name in _STATES}
    if inputs.seen is not None:
        arrays["seen"] = _fitting(inputs.seen, pages)
    if inputs.discards is not None:
        for name in _COVERAGE:
            arrays[name] = np.packbits(_fitting(getattr(inputs.discards, name), pages))
    stored = _Stored(
        reading.guest_seconds,
        reading.host_seconds,
        inputs.facts,
        has_seen=inputs.seen is not None,
        has_discards=inputs.discards is not None,
    )
    arrays["facts"] = np.frombuffer(_STORED.dump_json(stored), dtype=np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        return _sha256(path)
    except OSError as error:
        raise RecordError(f"cannot write the audit: {error}", evidence=(path,)) from error


def load_audit(path: Path, sha256: str | None = None) -> AuditInputs:
    """Read what `save_audit` wrote. `sha256`: what it returned; None: the record does not say.

    Raises RecordError when the file is another than that, and ObserveError when it is missing,
    damaged, or not such a file. Takes no more memory
    than the pages that it says it has, and at most that of `MOST_PAGES`.
    """
    try:
        if sha256 is not None and _sha256(path) != sha256:
            raise RecordError(
                "the audit's file is not the one that the run wrote: its checksum differs from the "
                "record's",
                hint="take the results from where they were recorded, or run the scenario again",
                evidence=(path,),
            )
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except _OlderFileError as error:
        raise ObserveError(
            "the audit's file is of an older version: it has the pages, but not what else their "
            "report was computed from",
            hint="record the run again with this version",
            evidence=(path,),
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"cannot read the audit: facts: {place}: {first['msg']}"
        raise ObserveError(message, evidence=(path,)) from error
    except _DAMAGE as error:
        raise ObserveError(f"cannot read the audit: {error}", evidence=(path,)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OlderFileError(Exception):
    """A file of schema 1, which had three arrays and no facts."""


def _read(archive: zipfile.ZipFile) -> AuditInputs:
    names = set(archive.namelist())
    if "facts.npy" not in names and {f"{name}.npy" for name in _STATES} <= names:
        raise _OlderFileError
    stored = _STORED.validate_json(_array(archive, "facts", most=MOST_FACTS).tobytes())
    _check(stored.facts)
    before, host, after = (_states(archive, name, highest) for name, highest in _STATES.items())
    pages = len(host)
    if not len(before) == pages == len(after):
        raise ValueError(f"before, host and after have {len(before)}, {pages}, {len(after)} pages")
    return AuditInputs(
        reading=AuditReading(before, host, after, stored.guest_seconds, stored.host_seconds),
        seen=_states(archive, "seen", max(Seen), pages) if stored.has_seen else None,
        discards=DiscardCoverage(*(_mask(archive, name, pages) for name in _COVERAGE))
        if stored.has_discards
        else None,
        facts=stored.facts,
    )


def _states(
    archive: zipfile.ZipFile, name: str, highest: int, exactly: int | None = None
) -> StateArray:
    states = _array(archive, name, most=MOST_PAGES, exactly=exactly)
    if len(states) and int(states.max()) > highest:
        raise ValueError(f"{name} holds an unknown state: {int(states.max())}")
    return states


def _check(facts: AuditFacts) -> None:
    """Raises ValueError for what no guest has."""
    for zone in facts.zones:
        if zone.start_pfn < 0 or zone.spanned < 0 or zone.start_pfn + zone.spanned > MOST_PAGES:
            raise ValueError(f"zone {zone.name!r} spans {zone.spanned} pages from {zone.start_pfn}")
    for piece in facts.pieces:
        if not 0 <= piece.pfn_start < piece.pfn_end <= MOST_PAGES or piece.hva < 0:
            raise ValueError(f"no memory lies like this: {piece}")


def _mask(archive: zipfile.ZipFile, name: str, pages: int) -> BoolArray:
    packed = _array(archive, name, most=MOST_PAGES, exactly=-(-pages // 8))
    return np.unpackbits(packed, count=pages).astype(np.bool_)


def _array(
    archive: zipfile.ZipFile, name: str, *, most: int, exactly: int | None = None
) -> npt.NDArray[np.uint8]:
    """A member: a plain vector of bytes. Raises ValueError for any other, before reading it."""
    with archive.open(f"{name}.npy") as member:
        length = _length(member, name)
        if length > most or (exactly is not None and length != exactly):
            wanted = f"at most {most}" if exactly is None else f"{exactly}"
            raise ValueError(f"{name} has {length} elements, not {wanted}")
        data = member.read(length)
        # Reading on to the end is what checks the archive's checksum.
        if len(data) != length or member.read(1):
            raise ValueError(f"{name} is not as long as it says")
    return np.frombuffer(data, dtype=np.uint8)


def _length(member: IO[bytes], name: str) -> int:
    """The number of bytes behind the header of a .npy."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"{name} is a .npy of version {version}")
    shape, _fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError(f"{name} is not a vector of bytes but {dtype} {shape}")
    return int(shape[0])


def _fitting(array: npt.NDArray[Any], pages: int) -> npt.NDArray[Any]:
    """The array with exactly `pages` elements; 0 where it says nothing."""
    result = np.zeros(pages, array.dtype)
    result[: len(array)] = array[:pages]
    return result
