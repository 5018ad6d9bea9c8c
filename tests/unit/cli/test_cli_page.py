# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness page`: where a page is, what happened to it, and what that means."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from judging import swallowed
from results_builders import BEGAN, HVA, Recorded, inputs_of, write_results
from run_builders import BLOCK, BLOCKS, Guest, healthy

from harness.cli.main import main
from harness.kernel.pages import GuestState, HostState
from harness.record.address_map import RamPiece
from harness.record.audit_file import save_audit
from harness.record.run_directory import audit_path
from harness.units import PAGE_SIZE

REPORTED = 30 * BLOCK
HELD = 18 * BLOCK


def page(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit status, and all that was printed."""
    capsys.readouterr()
    status = main(["page", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out + err


def discard(at: float, first: int, pages: int = BLOCK, status: int = 0) -> str:
    """A line of QEMU's trace, `at` seconds into the run."""
    return (
        f"15252@{BEGAN + at:.6f}:ram_block_discard_range m0@{HVA + first * PAGE_SIZE:#x} + "
        f"{pages * PAGE_SIZE:#x}: madvise: 1 fallocate: 0 ret: {status}\n"
    )


def write(tmp_path: Path, guests: Mapping[str, Guest], *lines: str, errors: str = "") -> Path:
    """Results of one run, with its logs."""
    results = write_results(tmp_path / "results", {"basic": Recorded(guests)})
    (results / "basic" / "discards.log").write_text("".join(lines))
    (results / "basic" / "qemu.log").write_text(errors)
    return results


def rows(said: str) -> list[list[str]]:
    """The table, without its heading."""
    table = said.split("\n\n")[1]
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[1:]]


def conclusion(said: str) -> str:
    return said.split("\n\n")[2].splitlines()[0]


def test_the_life_of_a_page_that_was_kept_against_all_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = healthy().blocks(26, 80, GuestState.USED, HostState.RESIDENT)
    results = write(
        tmp_path,
        {"before": before, "after": swallowed()},
        discard(0.5, 0, BLOCKS * BLOCK),
        discard(40.25, 29 * BLOCK),
        discard(50.5, REPORTED),
    )
    status, said = page(capsys, results, f"{REPORTED + 3:#x}")
    assert status == 0
    address = HVA + (REPORTED + 3) * PAGE_SIZE
    assert said.splitlines()[0] == (
        f"page {REPORTED + 3:#x} of basic: guest address {(REPORTED + 3) * PAGE_SIZE:#x}, "
        f"in QEMU's memory {address:#x} (block m0); node0/DMA32"
    )
    block = f"order 9, {REPORTED:#x}-{REPORTED + BLOCK - 1:#x}"
    assert rows(said) == [
        ["0.500s", f"discard of 256MiB from {HVA:#x} (discards.log:1)"],
        ["50.000s", "audit before", "used", "resident", "used_resident"],
        ["50.500s", f"discard of 2MiB from {HVA + REPORTED * PAGE_SIZE:#x} (discards.log:3)"],
        ["51.000s", "audit after", "reported", "resident", "reported_resident", block],
    ]
    assert conclusion(said) == (
        "At audit 'after' the guest had reported it, but the host still held it, although "
        "QEMU discarded it 2 times, last at 50.5 s: the host's kernel did not drop the page, or "
        "something has touched it since."
    )


@pytest.mark.parametrize(
    "where",
    [
        f"{REPORTED:#x}",
        f"{REPORTED}",
        f"pfn:{REPORTED:#x}",
        f"gpa:{REPORTED * PAGE_SIZE + 5:#x}",
        f"hva:{HVA + REPORTED * PAGE_SIZE + 4095:#x}",
        f"hva:{HVA + REPORTED * PAGE_SIZE}",
    ],
)
def test_a_page_has_three_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, where: str
) -> None:
    status, said = page(capsys, write(tmp_path, {"final": healthy()}), where)
    assert (status, said.startswith(f"page {REPORTED:#x} of basic")) == (0, True)


def seen(guest: Guest, pfn: int, guest_state: GuestState, host: HostState) -> Guest:
    guest.states[pfn], guest.host[pfn] = guest_state, host
    return guest


G, S = GuestState, HostState


@pytest.mark.parametrize(
    ("guest", "pfn", "says"),
    [
        (
            healthy(),
            REPORTED,
            "the guest had reported it, and the host had got it back; QEMU discarded",
        ),
        (
            healthy(),
            HELD,
            "the churn tool (pid 312) holds it, and the host holds it too, as it must",
        ),
        (healthy(), 5, "the guest uses it, and the host holds it, as it must"),
        (
            seen(healthy(), HELD, G.HELD, S.ABSENT),
            HELD,
            "the churn tool (pid 312) holds it and has written it, but the host does not hold it",
        ),
        (seen(healthy(), 5, G.USED, S.ABSENT), 5, "it was never touched"),
        (
            seen(healthy(), 5, G.CONTENT, S.ABSENT),
            5,
            "it has content, but the host does not hold it",
        ),
        (
            healthy(),
            22 * BLOCK,
            "it is free in a block of order 0, below the reporting order 9, so the guest keeps it",
        ),
        (
            replace(
                healthy().blocks(26, 1, G.FREE, S.RESIDENT),
                zones=tuple(replace(zone, low=60_000) for zone in healthy().zones),
            ),
            26 * BLOCK,
            "it is free in a zone below its watermark, which reporting passes skip",
        ),
        (
            healthy().blocks(26, 1, G.FREE, S.RESIDENT),
            26 * BLOCK,
            "in a zone above its watermark, but was not reported, and the host still holds it",
        ),
        (healthy().blocks(26, 1, G.FREE, S.ABSENT), 26 * BLOCK, "it was given back earlier"),
        (seen(healthy(), 5, G.OFFLINE, S.RESIDENT), 5, "in the balloon or unplugged, but the host"),
        (seen(healthy(), 5, G.NO_PAGE, S.UNKNOWN), 5, "the guest has no page there"),
        (seen(healthy(), 5, G.USED, S.UNKNOWN), 5, "could not be read, so it cannot be judged"),
    ],
)
def test_each_cell_of_the_table_has_its_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, guest: Guest, pfn: int, says: str
) -> None:
    results = write(tmp_path, {"final": guest}, discard(3.0, 0, BLOCKS * BLOCK))
    status, said = page(capsys, results, str(pfn))
    assert (status, says in conclusion(said)) == (0, True), said


def test_a_page_that_changed_while_the_audit_looked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write(tmp_path, {"final": healthy()})
    moving = inputs_of(healthy())
    moving.reading.after[5] = GuestState.FREE
    save_audit(audit_path(results / "basic", 1, "final"), moving)
    _status, said = page(capsys, results, "5")
    assert rows(said)[0][2:5] == ["used, then free", "resident", "unstable"]
    assert "changed during the audit, from used to free, and cannot be judged" in conclusion(said)


@pytest.mark.parametrize(
    ("lines", "errors", "says"),
    [
        ((), "", "QEMU never discarded it"),
        ((discard(70.0, REPORTED),), "", "QEMU never discarded it"),
        ((discard(40.0, REPORTED, 1, -22),), "", "QEMU's last discard of it at 40.0 s failed with"),
        (
            (),
            "2026-01-01T00:00:41.500000Z qemu-system-x86_64: ram_block_discard_range: Failed to "
            f"discard range m0:{REPORTED * PAGE_SIZE:x} +200000 (-12)\n",
            "QEMU's last discard of it at 41.5 s failed with ENOMEM",
        ),
    ],
    ids=["none", "only later", "failed", "failed by standard error"],
)
def test_why_a_reported_page_stayed(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    lines: tuple[str, ...],
    errors: str,
    says: str,
) -> None:
    results = write(tmp_path, {"final": swallowed()}, *lines, errors=errors)
    _status, said = page(capsys, results, str(REPORTED))
    assert says in conclusion(said)


def test_a_page_the_guest_uses_again_and_the_host_does_not_hold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whether it was lost is a matter of the discards."""
    results = write(tmp_path, {"final": seen(healthy(), 5, G.USED, S.ABSENT)})
    inputs = inputs_of(seen(healthy(), 5, G.USED, S.ABSENT))
    earlier = inputs_of(healthy()).reduce()[1]
    save_audit(audit_path(results / "basic", 1, "final"), replace(inputs, seen=earlier))
    assert "lost, or removed by something other" in conclusion(page(capsys, results, "5")[1])
    (results / "basic" / "discards.log").write_text(discard(30.0, 0))
    assert "allocated again without being touched; QEMU discarded it once, at 30.0 s" in conclusion(
        page(capsys, results, "5")[1]
    )


def test_after_a_move_both_qemus_are_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    guests = {"source": healthy(), "destination": healthy()}
    results = write(tmp_path, guests, discard(20.0, REPORTED))
    other = HVA + (1 << 40)
    moved = inputs_of(
        healthy(),
        51.0,
        pieces=(RamPiece(0, BLOCK * BLOCKS, "m0", 0, other),),
        discard_log="destination/discards.log",
    )
    save_audit(audit_path(results / "basic", 2, "destination"), moved)
    (results / "basic" / "destination").mkdir()
    there = results / "basic" / "destination" / "discards.log"
    there.write_text(discard(50.5, REPORTED + (1 << 28)))
    (results / "basic" / "destination" / "qemu.log").touch()
    _status, said = page(capsys, results, str(REPORTED))
    assert [row[0] for row in rows(said)] == ["20.000s", "50.000s", "50.500s", "51.000s"]
    assert "(destination/discards.log:1)" in said
    assert page(capsys, results, f"hva:{other + REPORTED * PAGE_SIZE:#x}")[1] == said


def test_memory_that_was_plugged_later_is_missing_in_earlier_audits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write(tmp_path, {"before": healthy(), "after": healthy()})
    small = inputs_of(healthy())
    reading = small.reading
    cut = {name: getattr(reading, name)[: 10 * BLOCK] for name in ("before", "host", "after")}
    save_audit(
        audit_path(results / "basic", 1, "before"),
        replace(small, reading=replace(reading, **cut), discards=None),
    )
    _status, said = page(capsys, results, str(REPORTED))
    assert [row[1] for row in rows(said)] == ["audit after"]


def test_what_cannot_be_read_is_said_below(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write(tmp_path, {"before": healthy(), "after": healthy()})
    audit_path(results / "basic", 1, "before").write_bytes(b"damaged")
    (results / "basic" / "discards.log").unlink()
    status, said = page(capsys, results, str(REPORTED))
    assert status == 0
    assert "note: audit 'before' cannot be shown: cannot read the audit" in said
    assert "note: discards are missing: " in said


def test_a_run_is_named_where_there_are_several(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"one": Recorded(), "two": Recorded()})
    status, said = page(capsys, results, "5")
    assert status == 2
    assert "has 2 runs; name one: DIR RUN WHERE" in said
    assert "runs are: one, two" in said
    assert page(capsys, results, "two", "5")[1].startswith("page 0x5 of two")
    status, said = page(capsys, results, "three", "5")
    assert (status, "has no run 'three'" in said) == (2, True)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("0x10000", "page 0x10000 is beyond the guest's last page, 0xffff"),
        (f"{HVA:#x}", "gpa:ADDRESS for a guest-physical address, hva:ADDRESS"),
        ("gpa:0x10000000", "page 0x10000 is beyond"),
        ("hva:0x1000", "address 0x1000 in QEMU was not guest memory"),
        ("-5", "'-5' does not name a page"),
        ("page", "'page' does not name a page"),
        ("pfn:", "'pfn:' does not name a page"),
        ("0xfffffffffffffffff", "does not name a page"),
        ("2200k", "does not name a page"),
    ],
)
def test_a_place_that_is_none_is_told_with_what_to_write(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, where: str, words: str
) -> None:
    results = write(tmp_path, {"final": healthy()})
    status, said = page(capsys, results, where)
    assert (status, words in said) == (2, True), said
    assert said.startswith("fpr-harness: ")


def test_a_run_without_audits_has_no_pages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", {"basic": Recorded({})})
    status, said = page(capsys, results, "5")
    assert status == 69
    assert "run basic has no audit in which to look up a page" in said
    results = write_results(tmp_path / "more", {"basic": Recorded(kept=False)})
    status, said = page(capsys, results, "5")
    assert (status, "audit 'final' cannot be shown" in said) == (69, True)


def test_an_audit_that_names_files_elsewhere_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = write(tmp_path, {"final": healthy()})
    hostile = inputs_of(healthy(), discard_log="../../secrets.log")
    save_audit(audit_path(results / "basic", 1, "final"), hostile)
    status, said = page(capsys, results, "5")
    assert (
        status,
        "names a discard log outside the run's directory: '../../secrets.log'" in said,
    ) == (69, True)
