# SPDX-License-Identifier: Apache-2.0
"""`audit`: every page from both sides, and when it looks again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_guest import FakeGuest
from fake_process import FakeProcess
from guest_words import counters, page_rounds
from run_builders import BLOCK, BLOCKS, zone

from harness.act.seen_pages import SeenPages
from harness.act.verbs.audit import Audit
from harness.act.verbs.churn import Held
from harness.act.verbs.settle import Drained
from harness.guest.churn_client import ChurnSession
from harness.kernel.pages import GuestState, HostState, Seen, StateArray
from harness.machine.spec import GuestSpec
from harness.record.audit_file import load_audit
from harness.record.events import Audited, DriverChanged
from harness.record.facts import DiscardTotals, HostMapping
from harness.units import MIB, PAGE_SIZE

FREE_BLOCKS = zone().free // BLOCK
"""All that is free in the guest, reported or not."""


def states(free_blocks: int, *, held: int = 0) -> StateArray:
    """A guest with so many unreported free blocks of 2 MiB, and the first so many held."""
    found = np.full(BLOCK * BLOCKS, GuestState.USED, np.uint8)
    first = BLOCKS - FREE_BLOCKS
    found[BLOCK * first :] = GuestState.FREE
    found[BLOCK * (first + free_blocks) :: BLOCK] = GuestState.REPORTED
    found[: BLOCK * held] = GuestState.HELD
    return found


def say(guest: FakeGuest, rounds: Sequence[StateArray], drained: int = 0) -> None:
    """What the guest says at each reading of its pages; an audit reads twice.

    After the first look, its per-CPU lists have given back `drained` bytes.
    """
    coming, late = list(rounds), [drained]

    def process(command: str) -> FakeProcess:
        # A process is started for each look; a settle in between has one of its own.
        now = coming.pop(0) if len(coming) > 1 else coming[0]
        free = zone().free + (late.pop() if late else 0) // PAGE_SIZE
        guest.vm.says["counters --once"] = counters([zone(free=free)])
        assert ("--held-by 77" in command) == (guest.kept(Held).tool is not None)
        return page_rounds([now])

    guest.vm.says["fpr-guest pages"] = process
    guest.host.host = np.full(BLOCK * BLOCKS, HostState.RESIDENT, np.uint8)


def unreported(guest: FakeGuest) -> int:
    (event,) = guest.recorded(Audited)
    return event.report.total.free_large_resident


def test_its_pages_and_sums_are_kept(guest: FakeGuest) -> None:
    say(guest, [states(10)])
    Audit.model_validate({"name": "after", "expect": {"rounds": ">= 0"}}).perform(guest)
    (event,) = guest.recorded(Audited)
    assert (event.name, event.checks) == ("after", ("rounds: >= 0",))
    assert event.report.total.free_large_resident == 20 * MIB
    kept = load_audit(guest.directory / "audits" / "01-after.npz")
    assert (kept.reading.before == states(10)).all()
    assert (kept.reading.host == HostState.RESIDENT).all()
    assert kept.reduce()[0] == event.report
    assert kept.facts.zones == (zone(),)
    assert kept.facts.pieces == guest.instruments.layout.pieces
    assert kept.facts.discard_log == "discards.log"
    seen = guest.kept(SeenPages).seen
    assert seen is not None
    assert (seen == Seen.RESIDENT).sum() == BLOCK * (BLOCKS - FREE_BLOCKS)


def test_what_the_host_was_seen_to_have_lost_has_its_discard(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under nested KVM an audit takes seconds, and a pass reported 58 MiB in the middle of one."""
    say(guest, [states(10)])
    held = guest.host.mappings[0]

    def lose_a_block() -> HostMapping:
        guest.host.totals = DiscardTotals(calls=1, bytes=2 * MIB, failed_calls=0, failed_bytes=0)
        return held

    monkeypatch.setattr(guest.host, "read", lose_a_block)
    Audit().perform(guest)
    (event,) = guest.recorded(Audited)
    assert (event.mapping, event.discards) == (held, guest.host.totals)


def test_without_a_trace_of_discards_the_pages_are_judged_and_the_ledger_is_absent(
    guest: FakeGuest,
) -> None:
    guest.host.untraced = "no such event"
    guest.reopen_instruments()
    say(guest, [states(10)])
    Audit.model_validate({"name": "after"}).perform(guest)
    (event,) = guest.recorded(Audited)
    assert event.discards is None
    assert event.report.reported_undiscarded is None
    assert event.report.tail_discarded is None
    assert event.report.total.free_large_resident == 20 * MIB
    assert load_audit(guest.directory / "audits" / "01-after.npz").discards is None


@pytest.mark.parametrize(
    ("left", "driver", "noted"),
    [(10, "", True), (10, "driver=virtio_balloon\n", False), (0, "", False)],
    ids=["unbound", "bound", "nothing to report"],
)
def test_a_driver_that_a_command_has_unbound_is_noted(
    guest: FakeGuest, left: int, driver: str, noted: bool
) -> None:
    """Else what it never reports would be called the guest's failure to report."""
    say(guest, [states(left)])
    guest.vm.says["page_reporting/parameters"] = f"features=000001\n{driver}order=9\n"
    Audit().perform(guest)
    assert [each.bound for each in guest.recorded(DriverChanged)] == [False] * noted


def test_memory_that_the_guest_has_put_offline_is_none_of_its_own(guest: FakeGuest) -> None:
    """From 6.16 on the guest lists it as if its kernel used it."""
    say(guest, [states(10)])
    less = zone(present=zone().present - 16 * BLOCK)
    guest.vm.says["counters --once"] = counters([less])
    guest.vm.says["fpr-guest pages"] = page_rounds([states(10)])
    guest.vm.says["/sys/devices/system/memory"] = f"{16 * 2 * MIB:x}\nmemory0\n"
    Audit().perform(guest)
    (event,) = guest.recorded(Audited)
    assert event.put_offline == 32 * MIB
    assert event.report.listed == (BLOCKS - 16) * 2 * MIB
    kept = load_audit(guest.directory / "audits" / "01-audit.npz")
    assert kept.reduce()[0] == event.report


def test_what_the_churn_tool_holds_is_asked_for_and_missed(guest: FakeGuest) -> None:
    tool = ChurnSession(FakeProcess(), size=1 * MIB)
    tool.pid = 77
    guest.kept(Held).tool = tool
    say(guest, [states(0, held=4)])
    Audit().perform(guest)
    guest.host.host[: BLOCK * 4] = HostState.ABSENT
    Audit().perform(guest)
    first, second = guest.recorded(Audited)
    assert first.report.total.held_absent == 0
    assert second.report.total.held_absent == 8 * MIB


def test_blocks_merged_since_the_settle_are_waited_for(guest: FakeGuest) -> None:
    say(guest, [states(70), states(0)])
    guest.kept(Drained).note(guest, 0)
    Audit().perform(guest)
    assert unreported(guest) == 0
    assert guest.phase_names == ["audit", "settle"]


@pytest.mark.parametrize(("drained", "looks"), [(26 * MIB, 2), (2 * MIB, 2), (2 * MIB - 4096, 1)])
def test_what_the_percpu_lists_give_back_in_the_middle_is_waited_for(
    guest: FakeGuest, drained: int, looks: int
) -> None:
    """26 MiB of 256 were a FAIL, guest-retained, of a healthy 6.1."""
    say(guest, [states(0)], drained=drained)
    guest.kept(Drained).note(guest, 0)
    Audit().perform(guest)
    assert guest.phase_names == ["audit", *(looks - 1) * ["settle"]]


def test_what_is_never_reported_is_recorded_all_the_same(guest: FakeGuest) -> None:
    say(guest, [states(70)])
    guest.kept(Drained).note(guest, 0)
    Audit().perform(guest)
    assert unreported(guest) == 140 * MIB
    assert guest.phase_names == ["audit", "settle"], "the second wait left all of it"


def test_a_single_block_is_waited_for_as_well(guest: FakeGuest) -> None:
    """Scenarios forgive none: the last block of a zone may be one that is never reported."""
    say(guest, [states(1), states(0)])
    guest.kept(Drained).note(guest, 0)
    Audit().perform(guest)
    assert (unreported(guest), guest.phase_names) == (0, ["audit", "settle"])


@pytest.mark.parametrize(("changing", "looks"), [(32, 2), (2, 1)])
def test_a_look_in_the_middle_of_a_pass_is_not_the_one_recorded(
    guest: FakeGuest, changing: int, looks: int
) -> None:
    """A pass of QEMU 7.2 isolates 32 blocks at a time: 64 MiB of 1 GiB were too much to judge."""
    say(guest, [states(0)])
    during = states(0)
    during[BLOCK * (BLOCKS - FREE_BLOCKS) :][: changing * BLOCK] = GuestState.USED
    moving, still = [page_rounds([states(0), during])], guest.vm.says["fpr-guest pages"]

    def process(command: str) -> FakeProcess:
        process = still(command)
        return moving.pop() if moving else process

    guest.vm.says["fpr-guest pages"] = process
    Audit().perform(guest)
    (event,) = guest.recorded(Audited)
    assert event.report.total.unstable == (0 if looks > 1 else changing * 2 * MIB)
    assert guest.phase_names == looks * ["audit"]


def test_one_look_is_enough_unless_a_settle_came_directly_before(guest: FakeGuest) -> None:
    say(guest, [states(70), states(0)])
    guest.kept(Drained).note(guest, 0)
    guest.phase("run")
    Audit().perform(guest)
    assert (unreported(guest), guest.phase_names) == (140 * MIB, ["run", "audit"])


@pytest.mark.parametrize("loss", ["held", "written", "suspect"])
def test_a_look_that_saw_a_loss_is_the_one_recorded(guest: FakeGuest, loss: str) -> None:
    """Of a page the churn tool holds; that somebody wrote; that was there and may have been freed
    and taken again since, untouched."""
    state = {"held": GuestState.HELD, "written": GuestState.CONTENT, "suspect": GuestState.USED}
    pages = states(70)
    pages[:BLOCK] = state[loss]
    say(guest, [pages])
    if loss == "suspect":
        Audit().perform(guest)
        guest.host.discarded_at[:BLOCK] = guest.host.marks + 1
    say(guest, [pages, states(0)])
    guest.host.host[:BLOCK] = HostState.ABSENT
    guest.kept(Drained).note(guest, 0)
    Audit().perform(guest)
    report = guest.recorded(Audited)[-1].report
    assert report.total.free_large_resident == 140 * MIB
    seen = (report.total.held_absent, report.lost_bytes, report.suspect_bytes)
    assert (
        seen
        == {
            "held": (2 * MIB, 2 * MIB, 0),
            "written": (0, 2 * MIB, 0),
            "suspect": (0, 0, 2 * MIB),
        }[loss]
    )
    assert guest.phase_names[-1] == "audit"


def suspected(guest: FakeGuest) -> tuple[int, int | None]:
    """Suspect and lost bytes of an audit at which the first block, used before, is absent."""
    guest.host.host[:BLOCK] = HostState.ABSENT
    Audit().perform(guest)
    report = guest.recorded(Audited)[-1].report
    return report.suspect_bytes, report.lost_bytes


def test_a_page_that_no_discard_has_covered_since_the_audit_before_is_lost(
    guest: FakeGuest,
) -> None:
    say(guest, [states(0)])
    guest.host.discarded_at[:BLOCK] = guest.host.marks
    Audit().perform(guest)
    assert suspected(guest) == (2 * MIB, 2 * MIB), "that discard was before"


@pytest.mark.parametrize("why", ["another log", "lazily free"])
def test_any_discard_excuses_a_page_where_the_audit_before_says_nothing_of_it(
    guest: FakeGuest, why: str
) -> None:
    """A log opened since then counts its own moments; what is lazily free goes when the host wants
    it, however long ago it was discarded."""
    if why == "lazily free":
        guest.vm.spec = replace(guest.vm.spec, discard="free")
    say(guest, [states(0)])
    guest.host.discarded_at[:BLOCK] = guest.host.marks
    Audit().perform(guest)
    if why == "another log":
        guest.reopen_instruments()
    assert suspected(guest) == (2 * MIB, 0)


def test_what_is_lost_before_the_first_audit_does_not_look_untouched(guest: FakeGuest) -> None:
    """It was on the host when the guest was ready, and QEMU discarded none of it since."""
    guest.kept(SeenPages).begin(guest.instruments)
    say(guest, [states(0)])
    guest.host.host[:BLOCK] = HostState.ABSENT
    guest.host.discarded_at[: BLOCK // 2] = guest.host.marks + 1
    assert suspected(guest) == (0, MIB)
    assert guest.recorded(Audited)[0].report.lost_undiscarded == MIB


def test_what_a_page_was_says_nothing_of_one_plugged_in_its_place(guest: FakeGuest) -> None:
    pages = guest.kept(SeenPages)
    pages.begin(guest.instruments)
    (piece,) = guest.instruments.layout.pieces
    pages.keep_only(replace(guest.instruments.layout, pieces=(replace(piece, pfn_start=BLOCK),)))
    say(guest, [states(0)])
    guest.host.host[: 2 * BLOCK] = HostState.ABSENT
    assert suspected(guest) == (0, 2 * MIB)


def test_pages_that_a_migration_did_not_send_are_not_lost(guest: FakeGuest) -> None:
    guest.kept(SeenPages).moved = True
    pages = states(0)
    pages[:BLOCK] = GuestState.CONTENT
    say(guest, [pages])
    assert suspected(guest) == (0, 0)


@pytest.mark.parametrize(("passes", "due"), [(0.5, 0), (1.9, 0), (2.1, 20 * MIB)])
def test_memory_freed_since_an_audit_is_due_after_two_passes_of_the_guest(
    guest: FakeGuest, passes: float, due: int
) -> None:
    """By the guest's clock: while it stands still, no pass can run."""
    say(guest, [states(0)])
    Audit.model_validate({"name": "before"}).perform(guest)
    say(guest, [states(10)])
    pages = guest.kept(SeenPages)
    assert pages.guest_at is not None
    pages.guest_at -= passes * guest.pass_seconds
    Audit.model_validate({"name": "after"}).perform(guest)
    after = guest.recorded(Audited)[-1].report.total
    assert (after.free_large_resident, after.free_new_resident) == (due, 20 * MIB - due)
    kept = load_audit(guest.directory / "audits" / "02-after.npz")
    assert kept.reduce()[0].total == after, "its file says the same"


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_clock_that_would_race_is_kept_from_it_while_the_guest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    """Blocks that left the per-CPU lists between two readings were in no account: a false FAIL of a
    guest with 7.3, `withheld_bytes`."""
    guest = FakeGuest(tmp_path, monkeypatch, GuestSpec(256 * MIB, 1, clock=clock))
    say(guest, [states(10)])
    spinner = FakeProcess("awake\n")
    guest.vm.says["while :"] = spinner
    Audit.model_validate({"name": "after"}).perform(guest)
    spun = [number for number, text in enumerate(guest.vm.commands) if "while :" in text]
    assert spun == ([0] if clock == "virtual" else [])
    assert spinner.closed is (clock == "virtual")
