# SPDX-License-Identifier: Apache-2.0
"""`busy` and `calm`: processes that take and free memory while other steps go on."""

import re

import pytest
from fake_guest import FakeGuest
from fake_process import FakeProcess
from guest_words import counters
from run_builders import zone

from harness.act.verbs.busy import FIRST_ROUND_SECONDS, Busy, Calm, Processes
from harness.errors import GuestError, ScenarioError
from harness.machine.spec import GuestSpec
from harness.record.events import BusyEnded, BusyStarted, ChurnVerified
from harness.units import GIB, MIB, PAGE_SIZE

BEGUN = "busy bytes=1 mono_ns=7\n"


def done(checked: int, wrong: int = 0) -> str:
    return f"done checked_bytes={checked} mismatched_pages={wrong} rounds=12 mono_ns=9\n"


def busy(guest: FakeGuest, size: str, *free: int) -> int:
    """Bytes a guest is told to take whose zones have so much free, each 1 MiB at the least."""
    zones = [
        zone(node=node, free=each // PAGE_SIZE, min=MIB // PAGE_SIZE)
        for node, each in enumerate(free)
    ]
    guest.vm.says["counters --once"] = counters(zones)
    process = FakeProcess(BEGUN, reply=lambda _end: done(12 * 256 * MIB))
    guest.vm.says["fpr-guest busy"] = process
    Busy.model_validate({"size": size, "hold": "2s", "idle": "500ms"}).perform(guest)
    told = re.fullmatch(
        r"fpr-guest busy --bytes (\d+) --hold-ms 2000 --idle-ms 500", guest.vm.commands[-1]
    )
    assert told is not None
    assert process.timeouts == [pytest.approx(FIRST_ROUND_SECONDS + 2.0, abs=0.1)]
    assert guest.recorded(BusyStarted)[-1].bytes == int(told[1])
    return int(told[1])


def test_a_batch_is_32_blocks_of_the_order(guest: FakeGuest) -> None:
    assert busy(guest, "batch") == 64 * MIB


def test_a_share_is_of_the_guests_memory(guest: FakeGuest) -> None:
    guest.vm.spec = GuestSpec(GIB, 1)
    assert busy(guest, "25%") == 256 * MIB


def test_to_the_brim_is_what_is_above_the_watermarks_less_half_a_batch(guest: FakeGuest) -> None:
    assert busy(guest, "all-but-half-a-batch", 15 * MIB, 500 * MIB, 0) == 481 * MIB


def test_a_guest_without_so_much_is_the_scenarios_mistake(guest: FakeGuest) -> None:
    with pytest.raises(ScenarioError, match="less than half a batch \\(32MiB\\) free"):
        busy(guest, "all-but-half-a-batch", 30 * MIB)


def test_a_process_that_ends_at_once_is_told_with_its_last_words(guest: FakeGuest) -> None:
    guest.vm.says["fpr-guest busy"] = FakeProcess(status=137, stderr="killed by signal 9")
    with pytest.raises(GuestError, match=r"unexpectedly: it ended \(status 137\): killed by"):
        Busy.model_validate({"size": "10%"}).perform(guest)
    assert not guest.recorded(BusyStarted)


def test_calm_ends_every_process_and_records_its_rounds(guest: FakeGuest) -> None:
    busy(guest, "10%")
    busy(guest, "20%")
    processes = [task.lines.process for task in guest.kept(Processes).running]
    Calm().perform(guest)
    assert [event.rounds for event in guest.recorded(BusyEnded)] == [12, 12]
    assert all(isinstance(each, FakeProcess) and each.closed for each in processes)
    assert not guest.kept(Processes).running


def test_a_process_that_did_not_last_until_calm_is_an_error(guest: FakeGuest) -> None:
    dead = FakeProcess(BEGUN, status=137, stderr="out of memory")
    guest.vm.says["fpr-guest busy"] = dead
    Busy.model_validate({"size": "10%"}).perform(guest)
    with pytest.raises(GuestError, match=r"ended unexpectedly.*out of memory"):
        Calm().perform(guest)
    assert dead.closed


def test_a_process_that_does_not_tell_its_rounds_is_an_error(guest: FakeGuest) -> None:
    guest.vm.says["fpr-guest busy"] = FakeProcess(BEGUN, reply=lambda _end: "done rounds=many\n")
    Busy.model_validate({"size": "10%"}).perform(guest)
    with pytest.raises(GuestError, match="without a number for `rounds`"):
        Calm().perform(guest)


def calmed(guest: FakeGuest, said: str, end: str) -> ChurnVerified:
    """What is recorded of a process that takes 4 MiB twelve times, and says so."""
    guest.vm.says["fpr-guest busy"] = FakeProcess(said, reply=lambda _end: end)
    Busy.model_validate({"size": "4MiB"}).perform(guest)
    Calm().perform(guest)
    (verified,) = guest.recorded(ChurnVerified)
    return verified


def test_what_was_taken_has_been_verified(guest: FakeGuest) -> None:
    seen = calmed(guest, BEGUN, done(48 * MIB))
    assert (seen.bytes, seen.unchecked, seen.by) == (48 * MIB, 0, "busy")
    assert (seen.mismatched_pages, seen.detail) == (0, ())


def test_pages_found_changed_are_recorded_whenever_they_were(guest: FakeGuest) -> None:
    seen = calmed(guest, f"mismatch page=1\n{BEGUN}", f"mismatch page=2\n{done(48 * MIB, 2)}")
    assert (seen.mismatched_pages, seen.detail) == (2, ("mismatch page=1", "mismatch page=2"))


def test_what_was_taken_and_not_verified_is_recorded_as_that(guest: FakeGuest) -> None:
    assert calmed(guest, BEGUN, done(40 * MIB)).unchecked == 8 * MIB


def test_what_is_still_busy_when_the_run_leaves_the_guest_is_ended(guest: FakeGuest) -> None:
    busy(guest, "10%")
    (task,) = guest.kept(Processes).running
    guest.kept(Processes).close()
    assert isinstance(task.lines.process, FakeProcess)
    assert task.lines.process.closed
