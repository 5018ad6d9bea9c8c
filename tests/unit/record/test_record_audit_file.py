# SPDX-License-Identifier: Apache-2.0
"""The file of an audit: everything its report rests on, small, and safe to read from anybody."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import ObserveError, RecordError
from harness.kernel.losses import DiscardCoverage
from harness.kernel.pages import GuestState, HostState, Seen
from harness.kernel.zones import Zone
from harness.record import audit_file
from harness.record.address_map import RamPiece
from harness.record.audit_file import (
    AuditFacts,
    AuditInputs,
    AuditReading,
    load_audit,
    save_audit,
)
from harness.units import GIB, PAGE_SIZE

PAGES = GIB // PAGE_SIZE
ZONE = Zone(0, "DMA32", 0, PAGES, PAGES, PAGES, 200_000, 10, 20, 30, (0,) * 11, 7)


def inputs(pages: int = PAGES, **changed: Any) -> AuditInputs:
    """A guest of 1 GiB: reported in blocks of the order, a page in every 64 used."""
    guest = np.full(pages, GuestState.FREE, np.uint8)
    guest[::512] = GuestState.REPORTED
    guest[7::64] = GuestState.USED
    host = np.where(guest == GuestState.USED, HostState.RESIDENT, HostState.ABSENT)
    seen = np.where(guest == GuestState.USED, Seen.RESIDENT, Seen.NOTHING)
    ever = np.arange(pages) % 3 == 0
    whole = AuditInputs(
        AuditReading(guest, host.astype(np.uint8), guest.copy(), 0.7, 0.04),
        seen.astype(np.uint8),
        DiscardCoverage(ever, ever.copy(), np.arange(pages) % 5 == 0),
        AuditFacts(
            at=12.3456789,
            zones=(ZONE,),
            reporting_order=9,
            moved=False,
            pieces=(RamPiece(0, pages, "m0", 0, 0x7FB133E00000),),
            held_by=(42,),
            discard_log="discards.log",
        ),
    )
    return replace(whole, **changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audits" / "01-end.npz"


def test_what_is_read_back_is_what_was_written(path: Path) -> None:
    written = inputs()
    save_audit(path, written)
    again = load_audit(path)
    assert again.facts == written.facts
    for name in ("before", "host", "after"):
        assert np.array_equal(getattr(again.reading, name), getattr(written.reading, name))
    assert again.seen is not None
    assert again.discards is not None
    assert written.seen is not None
    assert np.array_equal(again.seen, written.seen)
    for name in ("ever", "since_earlier", "during"):
        assert np.array_equal(getattr(again.discards, name), getattr(written.discards, name))
    assert again.reduce()[0] == written.reduce()[0]


def test_what_earlier_audits_saw_and_what_was_discarded_count_again(path: Path) -> None:
    """A used page that went absent: lost if it was there and nothing discarded it since."""
    written = inputs()
    written.reading.host[7] = HostState.ABSENT
    never = np.zeros(PAGES, np.bool_)
    for seen, discarded, lost in (
        (Seen.RESIDENT, False, PAGE_SIZE),
        (Seen.RESIDENT, True, 0),
        (Seen.NOTHING, False, 0),
    ):
        assert written.seen is not None
        known, since = written.seen.copy(), never.copy()
        known[7], since[7] = seen, discarded
        changed = replace(written, seen=known, discards=DiscardCoverage(since, since, never))
        save_audit(path, changed)
        assert load_audit(path).reduce()[0].lost_bytes == lost


def test_a_guest_of_a_gibibyte_makes_a_small_file(path: Path) -> None:
    save_audit(path, inputs())
    assert path.stat().st_size < 10_000


def test_no_trace_and_no_earlier_audit_are_not_the_same_as_empty_ones(path: Path) -> None:
    save_audit(path, inputs(discards=None, seen=None))
    again = load_audit(path)
    assert again.discards is None
    assert again.seen is None
    assert again.reduce()[0].reported_undiscarded is None


def test_arrays_of_another_length_are_fitted(path: Path) -> None:
    """Memory was plugged since the audit before; QEMU's layout ends before the guest's."""
    long = np.ones(PAGES + 9, np.bool_)
    seen = np.full(5, Seen.RESIDENT_EARLIER, np.uint8)
    save_audit(path, inputs(seen=seen, discards=DiscardCoverage(long, long[:3], long)))
    again = load_audit(path)
    assert again.seen is not None
    assert np.flatnonzero(again.seen).tolist() == [0, 1, 2, 3, 4]
    assert again.discards is not None
    assert len(again.discards.ever) == PAGES
    assert np.flatnonzero(again.discards.since_earlier).tolist() == [0, 1, 2]


def test_a_file_that_cannot_be_written_is_an_error(path: Path) -> None:
    path.parent.write_text("in the way")
    with pytest.raises(RecordError, match="cannot write the audit"):
        save_audit(path, inputs())


def test_a_file_of_an_older_version_is_named_as_one(path: Path) -> None:
    path.parent.mkdir()
    states = np.zeros(8, np.uint8)
    np.savez_compressed(path, before=states, host=states, after=states, seconds=np.zeros(2))
    with pytest.raises(ObserveError, match="older version"):
        load_audit(path)


def test_a_missing_file_or_one_cut_off_anywhere_is_an_error(path: Path) -> None:
    with pytest.raises(ObserveError, match="cannot read the audit"):
        load_audit(path)
    save_audit(path, inputs(64))
    whole = path.read_bytes()
    for keep in range(0, len(whole), 13):
        path.write_bytes(whole[:keep])
        with pytest.raises(ObserveError):
            load_audit(path)


def member(array: Any) -> bytes:
    """A .npy as numpy writes it."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def rewritten(path: Path, **members: bytes) -> None:
    """The file with some of its members replaced."""
    with zipfile.ZipFile(path) as archive:
        whole = {info.filename: archive.read(info) for info in archive.infolist()}
    whole |= {f"{name}.npy": data for name, data in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in whole.items():
            archive.writestr(name, data)


ENDLESS = member(np.zeros(0, np.uint8)).replace(b"(0,), }", b"(99999999999999,), }", 1)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("host", member(np.zeros(5, np.uint8)), "have 64, 5, 64 pages"),
        ("after", member(np.full(64, 9, np.uint8)), "after holds the unknown state 9"),
        ("before", member(np.zeros(64, np.uint16)), "not a vector of bytes"),
        ("before", member(np.zeros((8, 8), np.uint8)), "not a vector of bytes"),
        ("host", member(np.array([{}], dtype=object)), "not a vector of bytes"),
        ("before", ENDLESS, "before has 99999999999999 elements"),
        ("host", member(np.zeros(64, np.uint8))[:-9], "does not have the length in its header"),
        ("ever", member(np.zeros(9, np.uint8)), "ever has 9 elements, not 8"),
        ("seen", member(np.zeros(9, np.uint8)), "seen has 9 elements, not 64"),
        ("seen", member(np.full(64, 9, np.uint8)), "seen holds the unknown state 9"),
        ("facts", member(np.zeros((1 << 20) + 1, np.uint8)), "facts has 1048577 elements"),
        ("facts", member(np.frombuffer(b"{}", np.uint8)), "facts: guest_seconds: Field required"),
        ("facts", member(np.frombuffer(b"\xff", np.uint8)), "cannot read the audit's file: facts"),
    ],
)
def test_a_file_made_by_hand_is_refused_before_it_takes_memory(
    path: Path, name: str, data: bytes, said: str
) -> None:
    save_audit(path, inputs(64))
    rewritten(path, **{name: data})
    with pytest.raises(ObserveError, match=said):
        load_audit(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"zones": (replace(ZONE, start_pfn=-5),)},
        {"zones": (replace(ZONE, spanned=1 << 40),)},
        {"pieces": (RamPiece(9, 9, "m0", 0, 0),)},
        {"pieces": (RamPiece(0, 9, "m0", 0, -1),)},
    ],
    ids=str,
)
def test_facts_that_no_guest_has_are_refused(path: Path, changed: dict[str, Any]) -> None:
    plain = inputs(64)
    save_audit(path, replace(plain, facts=replace(plain.facts, **changed)))
    with pytest.raises(
        ObserveError, match=r"cannot read the audit's file: (zone|not a valid range)"
    ):
        load_audit(path)


def test_more_pages_than_any_guest_has_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = inputs(64)
    save_audit(path, replace(plain, facts=replace(plain.facts, zones=(), pieces=())))
    monkeypatch.setattr(audit_file, "MOST_PAGES", 63)
    with pytest.raises(ObserveError, match="before has 64 elements, not at most 63"):
        load_audit(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_makes_an_error_or_changes_nothing(
    tmp_path: Path, at: int, byte: int
) -> None:
    path = tmp_path / "audit.npz"
    written = inputs(64)
    save_audit(path, written)
    whole = bytearray(path.read_bytes())
    whole[at % len(whole)] = byte
    path.write_bytes(whole)
    try:
        again = load_audit(path)
    except ObserveError:
        return
    assert again.reduce()[0] == written.reduce()[0]
    assert again.facts == written.facts
