# SPDX-License-Identifier: Apache-2.0
"""Writes and reads the file of a page audit, which holds everything its report was computed from.

It is a .npz, a zip archive of numpy arrays: `before`, `host`, `after` and, except in the first
audit, `seen`, with one byte per page frame; the discards' coverage as bits, if there is a trace;
and `facts`, everything else as JSON. A guest of 1 GiB takes about 5 KB.
"""

import hashlib
import re
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
from harness.kernel.oracle import NEW_PASSES, PageClasses, classify, reduce_audit
from harness.kernel.pages import AuditReport, GuestState, HostState, Seen, StateArray
from harness.kernel.zones import Zone
from harness.record.address_map import RamPiece
from harness.regular_file import open_regular

MOST_PAGES = 1 << 28
"""Upper bound of page frames, those of 1 TiB; a file that claims more is refused."""

MOST_FACTS = 1 << 20
"""Upper bound of the JSON in bytes; a guest of 64 nodes takes 100 KB."""

_STATES = {"before": max(GuestState), "host": max(HostState), "after": max(GuestState)}
"""Names of the arrays of states, with the highest valid state of each."""

_COVERAGE = tuple(field.name for field in fields(DiscardCoverage))

_BYTES_HEADER = re.compile(
    rb"\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d{1,15}),\), \} *\n?"
)
"""A vector of bytes as `numpy.lib.format.write_array_header_1_0` writes it."""

# What zipfile and numpy raise for a file that is missing, truncated or of another kind.
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, IndexError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, NotImplementedError),
)


@dataclass(frozen=True)
class AuditReading:
    """The page states of an audit, in three arrays of equal length, index = PFN.

    The guest's states are as its tool sends them: REPORTED on the heads of reported blocks only.
    """

    before: StateArray
    """GuestState, read before the host."""
    host: StateArray
    """HostState; UNKNOWN where the guest has page frames but QEMU has no RAM."""
    after: StateArray
    """GuestState, read after the host."""
    guest_seconds: float
    """Duration of both guest readings together."""
    host_seconds: float
    guest_at: float | None = None
    """When it began, on the guest's monotonic clock in seconds; None in older files."""


@dataclass(frozen=True)
class AuditFacts:
    """What an audit needs to know besides the page states."""

    at: float
    """Seconds since the run began."""
    zones: tuple[Zone, ...]
    reporting_order: int
    moved: bool
    """Whether the guest has moved to another QEMU."""
    pieces: tuple[RamPiece, ...]
    """Where the pages lie in QEMU's memory."""
    held_by: tuple[int, ...]
    """Guest process ids whose pages read HELD."""
    discard_log: str
    """QEMU's trace of discards, relative to the run's directory."""
    passes_since_earlier: float | None = None
    """Reporting passes that the guest had time for since the previous audit began; None if that is
    not known, as without a previous audit."""


@dataclass(frozen=True)
class AuditInputs:
    """Everything that an audit's report is computed from."""

    reading: AuditReading
    seen: StateArray | None
    """`Seen` by PFN, from the audits before; None for the first audit."""
    discards: DiscardCoverage | None
    """Coverage at the time of the audit; None without a trace."""
    facts: AuditFacts

    @property
    def recent(self) -> StateArray | None:
        """`seen` if the previous audit is so recent that memory freed since may not have been
        reported yet, else None."""
        passes = self.facts.passes_since_earlier
        return self.seen if passes is not None and 0 <= passes < NEW_PASSES else None

    def classify(self) -> PageClasses:
        """Find the cell of every page."""
        reading, facts = self.reading, self.facts
        return classify(
            *(reading.before, reading.host, reading.after),
            *(facts.zones, facts.reporting_order, self.recent),
        )

    def reduce(self) -> tuple[AuditReport, StateArray]:
        """Compute the report and the `seen` of the next audit."""
        return reduce_audit(
            self.reading.before,
            self.reading.host,
            self.reading.after,
            zones=self.facts.zones,
            reporting_order=self.facts.reporting_order,
            seen=self.seen,
            discards=self.discards,
            recent=self.recent,
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
    """Whether the file has this array: a lost array must not read as one never written."""
    has_discards: bool
    guest_at: float | None = None


_STORED: TypeAdapter[_Stored] = TypeAdapter(_Stored)


def save_audit(path: Path, inputs: AuditInputs) -> str:
    """Write the file, making its directory if necessary; return its SHA-256. Raises RecordError."""
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
        guest_at=reading.guest_at,
    )
    arrays["facts"] = np.frombuffer(_STORED.dump_json(stored), dtype=np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        return _sha256(path)
    except OSError as error:
        raise RecordError(f"cannot write the audit's file: {error}", evidence=(path,)) from error


def load_audit(path: Path, sha256: str | None = None) -> AuditInputs:
    """Read what `save_audit` wrote.

    `sha256`: what `save_audit` returned; None if the record lacks it. Raises RecordError if the
    file has another checksum, and ObserveError if it is missing, damaged or of another kind. Memory
    use is bounded by the number of pages that the file claims, and by `MOST_PAGES`.
    """
    try:
        if sha256 is not None and _sha256(path) != sha256:
            raise RecordError(
                "the audit's file is not the one that the run wrote: its checksum differs from the "
                "record's",
                hint="copy the results again from where they were recorded, or rerun the scenario",
                evidence=(path,),
            )
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive)
    except _OlderFileError as error:
        raise ObserveError(
            "the audit's file is of an older version: it has the page states, but not the rest of "
            "what its report was computed from",
            hint="record the run again with this version",
            evidence=(path,),
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"cannot read the audit's file: facts: {place}: {first['msg']}"
        raise ObserveError(message, evidence=(path,)) from error
    except _DAMAGE as error:
        raise ObserveError(f"cannot read the audit's file: {error}", evidence=(path,)) from error


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OlderFileError(Exception):
    """The file is of schema 1, which has three arrays and no facts."""


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
        reading=AuditReading(
            *(before, host, after),
            *(stored.guest_seconds, stored.host_seconds, stored.guest_at),
        ),
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
        raise ValueError(f"{name} holds the unknown state {int(states.max())}")
    return states


def _check(facts: AuditFacts) -> None:
    """Raise ValueError for zones or pieces that no guest can have."""
    for zone in facts.zones:
        if zone.start_pfn < 0 or zone.spanned < 0 or zone.start_pfn + zone.spanned > MOST_PAGES:
            raise ValueError(f"zone {zone.name!r} spans {zone.spanned} pages from {zone.start_pfn}")
    for piece in facts.pieces:
        if not 0 <= piece.pfn_start < piece.pfn_end <= MOST_PAGES or piece.hva < 0:
            raise ValueError(f"not a valid range of guest memory: {piece}")


def _mask(archive: zipfile.ZipFile, name: str, pages: int) -> BoolArray:
    packed = _array(archive, name, most=MOST_PAGES, exactly=-(-pages // 8))
    return np.unpackbits(packed, count=pages).astype(np.bool_)


def _array(
    archive: zipfile.ZipFile, name: str, *, most: int, exactly: int | None = None
) -> npt.NDArray[np.uint8]:
    """Read a member, which must be a vector of bytes; raise ValueError before reading any other."""
    with archive.open(f"{name}.npy") as member:
        length = _length(member, name)
        if length > most or (exactly is not None and length != exactly):
            wanted = f"at most {most}" if exactly is None else f"{exactly}"
            raise ValueError(f"{name} has {length} elements, not {wanted}")
        data = member.read(length)
        # zipfile verifies the member's checksum when it reaches the end.
        if len(data) != length or member.read(1):
            raise ValueError(f"{name} does not have the length in its header")
    return np.frombuffer(data, dtype=np.uint8)


def _length(member: IO[bytes], name: str) -> int:
    """Read the header of a .npy and return the number of bytes that follow."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"{name} is a .npy of the unknown version {version}")
    size = int.from_bytes(member.read(2), "little")
    header = member.read(size)
    # Not numpy's own reader: it evaluates the header, and tries Python 2's syntax too.
    match = _BYTES_HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"{name} is not a vector of bytes but {header[:80]!r}")
    return int(match[1])


def _fitting(array: npt.NDArray[Any], pages: int) -> npt.NDArray[Any]:
    """Return the array cut or extended to exactly `pages` elements; extended with 0."""
    result = np.zeros(pages, array.dtype)
    result[: len(array)] = array[:pages]
    return result
