# SPDX-License-Identifier: Apache-2.0
"""`churn`, `verify` and `release`: what is written, held, verified and freed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fake_guest import FakeGuest
from fake_process import FakeProcess
from guest_words import churn, counters, page_rounds
from run_builders import BLOCK, BLOCKS, mapping, zone

from harness.act.verbs.churn import SLACK_SECONDS, SLOWEST_RATE, Churn, Held, Release, Verify
from harness.errors import DeadlineError, GuestError, ObserveError, ScenarioError
from harness.kernel.pages import GuestState, HostState
from harness.record.audit_file import load_audit
from harness.record.events import (
    Audited,
    ChurnAsked,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    Pictured,
)
from harness.record.facts import DiscardTotals, HostMapping
from harness.units import MIB, PAGE_SIZE

HALF = 128 * MIB


def tool(guest: FakeGuest, process: FakeProcess) -> FakeProcess:
    """The guest's churn tool is this."""
    guest.vm.says["counters --once"] = counters([zone()])
    guest.vm.says["fpr-guest churn"] = process
    used = np.full(BLOCK * BLOCKS, GuestState.USED, np.uint8)
    guest.vm.says["fpr-guest pages"] = lambda _command: page_rounds([used])
    guest.host.host = np.full(BLOCK * BLOCKS, HostState.RESIDENT, np.uint8)
    return process


def test_a_round_writes_holds_verifies_and_frees(guest: FakeGuest) -> None:
    process = tool(guest, churn(HALF))
    guest.host.mappings = [mapping(200 * MIB)]
    Churn.model_validate({"size": "50%", "hold": "3s", "hugepages": "never"}).perform(guest)
    assert guest.phase_names == ["churn", "hold", "verify", "free"]
    assert guest.vm.commands[1] == f"fpr-guest churn --bytes {HALF} --seed 1 --hugepages never"
    assert process.written == ["verify\n", "free all\n"]
    (held,), (verified,) = guest.recorded(ChurnHeld), guest.recorded(ChurnVerified)
    (freed,) = guest.recorded(ChurnFreed)
    assert (held.bytes, verified.bytes, verified.mismatched_pages) == (HALF, HALF, 0)
    assert verified.t - held.t >= 3.0
    assert (freed.bytes, freed.still_held, freed.before.held) == (HALF, 0, 200 * MIB)
    assert freed.zones_before == (zone(),)
    assert process.closed
    assert guest.kept(Held).tool is None


def test_the_first_churn_leaves_a_picture_of_the_pages_at_their_peak(guest: FakeGuest) -> None:
    for _round in range(2):
        tool(guest, churn(HALF))
        Churn.model_validate({"size": "50%"}).perform(guest)
    (picture,) = guest.recorded(Pictured)
    assert "fpr-guest pages --held-by 77" in guest.vm.commands
    kept = load_audit(guest.directory / "audits" / "00-peak.npz", picture.sha256)
    assert kept.reduce()[0] == picture.report
    assert picture.report.total.used_resident == BLOCK * BLOCKS * PAGE_SIZE
    first, second = guest.recorded(ChurnVerified)
    held = guest.recorded(ChurnHeld)
    assert first.t - held[0].t == pytest.approx(second.t - held[1].t, abs=0.3), "hold is as long"
    assert guest.recorded(Audited) == []


def test_no_picture_where_there_is_no_time_for_it_or_the_host_cannot_be_read(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(guest, churn(HALF))
    Churn.model_validate({"size": "50%", "hold": "500ms"}).perform(guest)
    assert not any("fpr-guest pages" in command for command in guest.vm.commands)

    def gone(*_arguments: object) -> None:
        raise ObserveError("cannot read pagemap")

    monkeypatch.setattr("harness.act.picture.take_audit", gone)
    tool(guest, churn(HALF))
    Churn.model_validate({"size": "50%"}).perform(guest)
    assert len(guest.recorded(ChurnVerified)) == 2
    assert guest.recorded(Pictured) == []


def test_what_the_host_loses_after_the_baseline_has_its_discard(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass may report while the host is read before a free."""
    held, known = guest.host.mappings[0], guest.host.totals

    def lose_a_block() -> HostMapping:
        guest.host.totals = DiscardTotals(calls=1, bytes=2 * MIB, failed_calls=0, failed_bytes=0)
        return held

    monkeypatch.setattr(guest.host, "read", lose_a_block)
    tool(guest, churn(HALF))
    Churn.model_validate({"size": "50%"}).perform(guest)
    (freed,) = guest.recorded(ChurnFreed)
    assert (freed.before, freed.discards_before) == (held, known)


@pytest.mark.parametrize(
    ("free", "order", "told"),
    [
        ("half-of-blocks", None, "free blocks 9 2 0\n"),
        ("half-of-blocks", 4, "free blocks 4 2 0\n"),
        ("half-of-pages", None, "free blocks 0 2 0\n"),
        ("huge-page-tails", None, "free tails\n"),
    ],
)
def test_a_part_can_be_freed_and_the_rest_stays_held(
    guest: FakeGuest, free: str, order: int | None, told: str
) -> None:
    process = tool(guest, churn(HALF, freed=HALF // 2))
    Churn.model_validate({"size": "50%", "free": free, "order": order}).perform(guest)
    assert process.written[-1] == told
    (freed,) = guest.recorded(ChurnFreed)
    assert (freed.bytes, freed.still_held) == (HALF // 2, HALF // 2)
    assert not process.closed
    Verify().perform(guest)
    assert guest.recorded(ChurnVerified)[-1].bytes == HALF // 2
    Release().perform(guest)
    assert guest.recorded(ChurnFreed)[-1].still_held == 0
    assert process.closed


def test_a_new_churn_frees_what_is_held_and_has_another_pattern(guest: FakeGuest) -> None:
    first = tool(guest, churn(HALF, freed=HALF // 2))
    step = Churn.model_validate({"size": "50%", "free": "half-of-blocks"})
    step.perform(guest)
    tool(guest, churn(HALF, freed=HALF // 2))
    step.perform(guest)
    assert first.written[-1] == "free all\n"
    assert first.closed
    seeds = [word for word in guest.vm.commands if word.startswith("fpr-guest churn")]
    assert ["--seed 1" in seeds[0], "--seed 2" in seeds[1]] == [True, True]


def test_the_seed_of_the_scenario_is_the_patterns(guest: FakeGuest) -> None:
    tool(guest, churn(HALF))
    Churn.model_validate({"size": "50%", "seed": 7}).perform(guest)
    assert "--seed 7 " in guest.vm.commands[1]


def test_a_mismatch_is_recorded_and_not_raised(guest: FakeGuest) -> None:
    tool(guest, churn(HALF, mismatched=3))
    Churn.model_validate({"size": "50%"}).perform(guest)
    (verified,) = guest.recorded(ChurnVerified)
    assert (verified.mismatched_pages, verified.detail) == (3, ("mismatch page=1",))


def test_where_the_connection_will_break_the_tool_is_detached(guest: FakeGuest) -> None:
    guest.detached = True
    guest.vm.says["counters --once"] = counters([zone()])
    process = guest.vm.says["exec cat >/run/churn.in"] = churn(HALF)
    Churn.model_validate({"size": "50%", "hold": "0ms"}).perform(guest)
    assert "setsid fpr-guest churn" in guest.vm.commands[1]
    assert process.written[-1] == "exit\n"


def test_a_tool_that_dies_is_an_error_with_its_last_words(guest: FakeGuest) -> None:
    tool(guest, FakeProcess(status=1, stderr="was killed by signal 9 (Killed)"))
    with pytest.raises(GuestError, match="killed by signal 9"):
        Churn.model_validate({"size": "50%"}).perform(guest)
    assert guest.kept(Held).tool is None


def test_writing_has_a_deadline_by_its_size(guest: FakeGuest) -> None:
    """A tool that only tells of its progress is given as long as the slowest host needs."""
    process = tool(guest, FakeProcess("filling bytes=4096\n"))

    def slowly(timeout: float) -> str:
        guest.vm.sleep_alive(0.5)
        assert timeout <= SLACK_SECONDS + HALF / SLOWEST_RATE
        return "filling bytes=4096"

    process.read_line = slowly  # type: ignore[method-assign]
    with pytest.raises(DeadlineError, match="the churn tool to say `filled`"):
        Churn.model_validate({"size": "50%"}).perform(guest)
    assert guest.record.now() == pytest.approx(SLACK_SECONDS + HALF / SLOWEST_RATE, abs=1.0)
    assert process.closed


@pytest.mark.parametrize("verb", [Verify, Release])
def test_without_anything_held_the_scenario_is_wrong(
    guest: FakeGuest, verb: Callable[[], Verify | Release]
) -> None:
    with pytest.raises(ScenarioError, match="holds no memory"):
        verb().perform(guest)


def test_what_is_held_when_the_run_leaves_the_guest_is_given_back(guest: FakeGuest) -> None:
    process = tool(guest, churn(HALF, freed=HALF // 2))
    Churn.model_validate({"size": "50%", "free": "half-of-blocks"}).perform(guest)
    guest.kept(Held).close()
    assert process.closed


def test_what_the_guest_has_available_is_recorded_where_nothing_makes_room(
    guest: FakeGuest,
) -> None:
    meminfo = "MemAvailable: 204800 kB\nSwapFree: 8192 kB\n"
    for deflates in (False, True):
        tool(guest, churn(HALF))
        guest.vm.says["counters --once"] = counters([zone()], meminfo=meminfo)
        balloon = replace(guest.vm.spec.balloon, deflate_on_oom=deflates)
        guest.vm.spec = replace(guest.vm.spec, balloon=balloon)
        Churn.model_validate({"size": "50%", "hold": "0ms"}).perform(guest)
    (asked,) = guest.recorded(ChurnAsked)
    assert (asked.bytes, asked.available) == (HALF, 208 * MIB)
