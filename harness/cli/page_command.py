# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness page`: show the history of one page of a recorded run, on guest and host."""

import argparse
import datetime
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from harness.errors import ObserveError, RecordError, UsageError
from harness.record.address_map import AddressMap
from harness.record.audit_file import AuditInputs, load_audit
from harness.record.events import Audited
from harness.record.page_life import (
    CoveringDiscard,
    PageAtAudit,
    discards_of,
    failures_of,
    look_up,
)
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.run_directory import audit_path
from harness.regular_file import open_regular
from harness.report.page_table import PageLife, print_page
from harness.report.sink import LastingSink
from harness.units import PAGE_SIZE

MOST_BYTES = 1 << 16
"""Bytes of a line that are read; QEMU's lines have about a hundred."""

_WHERE = re.compile(r"(?:(pfn|gpa|hva):)?(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})")


def execute(options: argparse.Namespace) -> int:
    """Print the page's history; returns 0. Raises `UsageError`, `RecordError`."""
    space, number = _parse_where(options.where)
    run = _one_run(read_runs(options.directory), options)
    audits, remarks = _load_audits(run)
    pfn = _page(space, number, audits)
    last = max(len(inputs.reading.host) for _name, inputs in audits) - 1
    if pfn > last:
        raise UsageError(
            f"page {pfn:#x} is beyond the guest's last page, {last:#x}",
            hint="a bare number is a PFN; write gpa:ADDRESS for a guest-physical address, "
            "hva:ADDRESS for one in QEMU's memory",
        )
    looks = [look for name, inputs in audits if (look := look_up(name, inputs, pfn)) is not None]
    discards, unread = _discards(run, looks)
    life = PageLife(run.run_id, pfn, tuple(looks), discards, (*remarks, *unread))
    print_page(life, LastingSink(sys.stdout))
    return 0


def _parse_where(text: str) -> tuple[str, int]:
    """Parse WHERE into an address space (`pfn`, `gpa` or `hva`) and a number.

    Raises `UsageError`.
    """
    found = _WHERE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} does not name a page",
            hint="write a PFN (0x2200 or 8704), gpa:ADDRESS for a guest-physical address, or "
            "hva:ADDRESS for one in QEMU's memory",
        )
    return found[1] or "pfn", int(found[2], 0 if found[2].startswith("0x") else 10)


def _one_run(runs: Sequence[RecordedRun], options: argparse.Namespace) -> RecordedRun:
    names = [run.run_id for run in runs]
    shown = ", ".join(names) or "none"
    if options.run is None:
        if len(runs) != 1:
            raise UsageError(
                f"{options.directory} has {len(runs)} runs; name one: DIR RUN WHERE",
                hint=f"runs are: {shown}",
            )
        return runs[0]
    if options.run not in names:
        raise UsageError(
            f"{options.directory} has no run {options.run!r}", hint=f"runs are: {shown}"
        )
    return runs[names.index(options.run)]


def _load_audits(run: RecordedRun) -> tuple[list[tuple[str, AuditInputs]], list[str]]:
    """Load the audits; returns them with their names, and a remark on each unreadable one.

    Raises `RecordError` if no audit can be read.
    """
    audits: list[tuple[str, AuditInputs]] = []
    remarks: list[str] = []
    taken = [(event.name, event.sha256) for event in run.events if isinstance(event, Audited)]
    for number, (name, sha256) in enumerate(taken, 1):
        path = audit_path(run.directory, number, name)
        try:
            audits.append((name, load_audit(path, sha256)))
        except (ObserveError, RecordError) as error:
            remarks.append(f"audit {name!r} cannot be shown: {error.message} ({path})")
    if not audits:
        why = f": {remarks[0]}" if remarks else ": no step of its scenario was an audit"
        raise RecordError(
            f"run {run.run_id} has no audit in which to look up a page{why if taken else ''}",
            hint="a scenario's `audit` step records the state of every page",
            evidence=[run.directory] if run.directory.exists() else [],
        )
    return audits, remarks


def _page(space: str, number: int, audits: Sequence[tuple[str, AuditInputs]]) -> int:
    """Return the page frame number of an address. Raises `UsageError`."""
    if space == "pfn":
        return number
    if space == "gpa":
        return number // PAGE_SIZE
    for _name, inputs in audits:
        pfn = AddressMap(inputs.facts.pieces).page_at(number)
        if pfn is not None:
            return pfn
    pieces = dict.fromkeys(piece for _name, inputs in audits for piece in inputs.facts.pieces)
    lay = ", ".join(f"{piece.hva:#x}-{piece.hva_end - 1:#x}" for piece in pieces)
    raise UsageError(
        f"address {number:#x} in QEMU was not guest memory",
        hint=f"guest memory was at {lay or 'no known address'}",
    )


def _discards(
    run: RecordedRun, looks: Sequence[PageAtAudit]
) -> tuple[tuple[CoveringDiscard, ...], list[str]]:
    """Find the discards that covered the page, in each QEMU that the guest was in.

    Also returns a remark on each log that cannot be read.
    """
    began = _began(run)
    found: list[CoveringDiscard] = []
    unread: list[str] = []
    for log, piece, address in dict.fromkeys((e.discard_log, e.piece, e.address) for e in looks):
        if piece is None or address is None:
            continue
        errors = str(PurePosixPath(log).with_name("qemu.log"))
        offset = piece.block_offset + address - piece.hva
        try:
            found += discards_of(_lines(run, log), log, address, began)
            found += failures_of(_lines(run, errors), errors, piece.block, offset, began)
        except OSError as error:
            unread.append(f"discards are missing: {error.filename}: {error.strerror}")
    return tuple(found), unread


def _began(run: RecordedRun) -> float:
    """Return the start of the run in seconds since 1970. Raises `RecordError`."""
    try:
        return datetime.datetime.fromisoformat(run.started.wall).timestamp()
    except (ValueError, OverflowError) as error:
        raise RecordError(
            f"the start of run {run.run_id} is not a time: {run.started.wall!r}"
        ) from error


def _lines(run: RecordedRun, file: str) -> Iterator[bytes]:
    """Yield the lines of a file of the run.

    Raises `OSError`, and `RecordError` for a path that leads out of the run's directory.
    """
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise RecordError(
            f"an audit of run {run.run_id} names a discard log outside the run's directory: "
            f"{file!r}"
        )
    with open_regular(run.directory / file) as lines:
        yield from iter(lambda: lines.readline(MOST_BYTES), b"")
