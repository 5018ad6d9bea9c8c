# SPDX-License-Identifier: Apache-2.0
"""`crowd`: how many guests fit, and when one that does not come up says that they are full."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_guest import FakeGuest, FakeMachine
from fake_instruments import FakeInstruments
from guest_words import churn, counters, page_rounds, witness
from run_builders import mapping, zone

from harness.act.verbs.density import Crowd
from harness.errors import BootError, HarnessError, LaunchError, QemuGoneError
from harness.kernel.pages import GuestState
from harness.record.events import ChurnVerified, CrowdFull, CrowdGrew, Witnessed
from harness.units import MIB

USED = np.full(zone().spanned, GuestState.USED, np.uint8)


def ready(vm: FakeMachine) -> None:
    """A guest that fills and frees what it is told, and has nothing to report."""
    vm.says["counters --once"] = counters([zone()])
    vm.says["fpr-guest pages"] = lambda _command: page_rounds([USED])
    vm.says["fpr-guest churn"] = lambda _command: churn(200 * MIB)
    vm.says["fpr-guest witness"] = lambda _command: witness()


def neighbour(guest: FakeGuest, held: int) -> SimpleNamespace:
    """A further guest that holds so much."""
    vm, host = FakeMachine(guest.directory, guest.clock, guest.vm.spec), FakeInstruments(1)
    ready(vm)
    host.mappings = [mapping(held)]
    return SimpleNamespace(vm=vm, instruments=host.opened(), reporting_order=9, pass_seconds=2.0)


def crowd(guest: FakeGuest, **more: object) -> None:
    ready(guest.vm)
    guest.host.mappings = [mapping(200 * MIB)]
    plain = {"limit": "500MiB", "touch": "80%", "most": 4}
    Crowd.model_validate(plain | more).perform(guest)


def test_guests_come_until_they_hold_more_than_the_limit(guest: FakeGuest) -> None:
    guest.others = [neighbour(guest, 200 * MIB), neighbour(guest, 150 * MIB)]
    crowd(guest)
    assert [event.guests for event in guest.recorded(CrowdGrew)] == [1, 2]
    assert [event.peak for event in guest.recorded(CrowdGrew)] == [200 * MIB, 400 * MIB]
    (full,) = guest.recorded(CrowdFull)
    assert full.why == "3 guests held 550MiB, over 500MiB"


def test_every_guest_verifies_what_it_holds_while_all_hold_most(guest: FakeGuest) -> None:
    lossy = neighbour(guest, MIB)
    lossy.vm.says["fpr-guest churn"] = lambda _command: churn(200 * MIB, mismatched=3)
    guest.others = [lossy]
    crowd(guest, most=2)
    clean, lost = guest.recorded(ChurnVerified)
    assert (clean.by, clean.bytes, clean.mismatched_pages) == ("crowd", 200 * MIB, 0)
    assert (lost.mismatched_pages, lost.detail) == (3, ("guest 2: mismatch page=1",))


def test_a_witness_in_each_further_guest_looks_when_all_have_settled(guest: FakeGuest) -> None:
    lossy = neighbour(guest, MIB)
    lossy.vm.says["fpr-guest witness"] = lambda _command: witness(lost=1)
    guest.others = [lossy, neighbour(guest, MIB)]
    crowd(guest, most=3)
    lost, clean = guest.recorded(Witnessed)
    assert (lost.lost, lost.detail) == (1, ("guest 2: lost what=text address=0x1000000",))
    assert (clean.lost, clean.text_pages, clean.files) == (0, 9, 5)
    assert lost.t > guest.recorded(CrowdGrew)[-1].t


def test_the_crowd_may_be_as_large_as_the_scenario_says(guest: FakeGuest) -> None:
    guest.others = [neighbour(guest, MIB)]
    crowd(guest, most=2)
    assert [event.guests for event in guest.recorded(CrowdGrew)] == [1, 2]
    assert [event.why for event in guest.recorded(CrowdFull)] == ["all 2 guests fit"]


def test_all_guests_can_run_before_the_first_works(guest: FakeGuest) -> None:
    first = neighbour(guest, MIB)
    guest.others = [first, LaunchError("kvm is gone")]
    with pytest.raises(LaunchError):
        crowd(guest, boot_first=True)
    assert not guest.vm.commands
    assert not [words for words in first.vm.commands if "churn" in words]


def test_a_qemu_that_ends_while_it_starts_ends_the_crowd(guest: FakeGuest) -> None:
    error = LaunchError("QEMU exited (1): cannot set up guest memory\nmore")
    error.__cause__ = QemuGoneError("QEMU exited (1)")
    guest.others = [error]
    crowd(guest, boot_first=True)
    (full,) = guest.recorded(CrowdFull)
    assert full.why == "guest 2 did not start: QEMU exited (1): cannot set up guest memory"


@pytest.mark.parametrize(
    "error",
    [BootError("the guest did not become ready"), LaunchError("cannot write the VM's files")],
    ids=str,
)
def test_a_guest_that_something_else_keeps_away_is_no_sign_of_a_full_host(
    guest: FakeGuest, error: HarnessError
) -> None:
    guest.others = [error]
    with pytest.raises(type(error)):
        crowd(guest, boot_first=True)
    assert not guest.recorded(CrowdFull)
