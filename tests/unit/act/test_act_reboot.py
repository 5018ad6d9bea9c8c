# SPDX-License-Identifier: Apache-2.0
"""`reboot`: the same machine, a guest that has booted again."""

from dataclasses import replace

import numpy as np
import pytest
from fake_guest import FakeGuest
from pydantic import ValidationError
from run_builders import a_run, ready

from harness.act.seen_pages import SeenPages
from harness.act.verbs.load_kernel import LoadKernel
from harness.act.verbs.reboot import Reboot
from harness.errors import GuestError, GuestStuckError, PreconditionError
from harness.kernel.pages import Seen
from harness.machine.interposer import slow_from
from harness.measure.measures import measure
from harness.record.events import GuestReady, Measured, StepsDone
from harness.record.facts import Cause, DiscardTotals
from harness.record.folding import fold
from harness.scenario.steps import Situation
from harness.units import GIB, MIB


def test_the_guest_that_boots_again_is_recorded_and_its_pages_are_news(guest: FakeGuest) -> None:
    guest.kept(SeenPages).seen = np.full(4, Seen.RESIDENT, np.uint8)
    Reboot().perform(guest)
    assert guest.reboots == 1
    assert len(guest.recorded(GuestReady)) == 1
    seen = guest.kept(SeenPages).seen
    assert seen is not None
    assert set(seen) == {Seen.ON_HOST}


def test_the_guests_own_kernel_goes_by_a_command_in_the_background(guest: FakeGuest) -> None:
    Reboot(way="poweroff").perform(guest)
    ((way, command),) = guest.restarts
    assert way == "poweroff"
    assert command == "(sleep 0; exec busybox poweroff -f) >/dev/null 2>&1 &"


def test_a_guest_that_is_slow_as_a_whole_gets_longer_to_boot(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(guest.vm, "pace", 10.0)
    monkeypatch.setattr(guest, "reboot", lambda deadline, _how: given.append(deadline.remaining))
    Reboot.model_validate({"deadline": "7s"}).perform(guest)
    assert given == pytest.approx([70.0], abs=1.0)


def test_a_guest_that_reports_goes_within_the_next_pass_of_a_slow_host(guest: FakeGuest) -> None:
    guest.vm.spec = replace(guest.vm.spec, discard="slow")
    guest.pass_seconds = 10.0
    slow: list[bool] = []

    def look() -> None:
        slow.append(slow_from(guest.directory).exists())
        guest.clock.sleep(13.0)
        guest.host.totals = DiscardTotals(32, 64 * MIB, 0, 0)

    guest.vm.meanwhile = look
    Reboot(way="reboot", reporting=True).perform(guest)
    ((_way, command),) = guest.restarts
    assert command.startswith("(sleep 10.5;")
    assert slow == [True]
    assert not slow_from(guest.directory).exists()
    (event,) = guest.recorded(Measured)
    assert (event.name, event.value) == ("discarded_while_leaving_bytes", 64 * MIB)
    assert event.means is Cause.NOT_REPORTED


def test_a_slow_host_is_fast_again_if_the_guest_never_returns(
    guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.vm.spec = replace(guest.vm.spec, discard="slow")

    def hang(*_words: object, **_how: object) -> None:
        raise GuestStuckError("waited 120 s for the guest to boot again")

    monkeypatch.setattr(guest, "reboot", hang)
    with pytest.raises(GuestStuckError):
        Reboot(way="kexec", reporting=True).perform(guest)
    assert not slow_from(guest.directory).exists()


def test_a_reset_waits_for_no_pass() -> None:
    with pytest.raises(ValidationError, match="a reset does not wait for a pass"):
        Reboot(reporting=True)


def test_kexec_needs_a_kernel_that_is_loaded() -> None:
    booted = Situation(memory=GIB, hotplug=0, measured=frozenset())
    ((place, words),) = Reboot(way="kexec").mistakes(booted)
    assert place == ("way",)
    assert "load_kernel" in words
    loaded = LoadKernel().after(booted)
    assert not list(Reboot(way="kexec").mistakes(loaded))
    assert Reboot(way="kexec").after(loaded) == booted
    assert list(LoadKernel().mistakes(loaded))


def load(guest: FakeGuest) -> None:
    for file in guest.vm.boot_files:
        file.write_bytes(b"file")
    LoadKernel().perform(guest)


def test_the_kernel_is_loaded_with_its_initramfs(guest: FakeGuest) -> None:
    guest.vm.says["cat /sys/kernel/kexec_loaded"] = "1\n"
    load(guest)
    assert [word for word in guest.vm.commands if "fpr-guest" in word] == [
        "fpr-guest kexec load /run/vmlinuz /run/initramfs && rm /run/vmlinuz /run/initramfs"
    ]


def test_a_kernel_without_kexec_is_a_skip(guest: FakeGuest) -> None:
    guest.vm.says["test -e /sys/kernel/kexec_loaded"] = 1
    with pytest.raises(PreconditionError, match="has no kexec"):
        load(guest)


def test_a_kernel_that_is_not_kept_is_an_error(guest: FakeGuest) -> None:
    guest.vm.says["cat /sys/kernel/kexec_loaded"] = "0\n"
    with pytest.raises(GuestError, match="did not keep"):
        load(guest)


@pytest.mark.parametrize("fact", ["busy", "driver unbound", "dimm plugged"])
def test_what_a_reset_would_undo_is_a_mistake(fact: str) -> None:
    booted = Situation(memory=GIB, hotplug=0, measured=frozenset())
    assert not list(Reboot().mistakes(booted))
    ((_place, words),) = Reboot().mistakes(booted.having(fact))
    assert fact in words


def test_after_it_nothing_is_held_and_no_audit_is_current() -> None:
    *steps, done = a_run()
    assert isinstance(done, StepsDone)
    before = fold(steps)
    after = fold([*steps, ready(t=70.0, page_reporting_order=8)])
    assert (before.held_by_churn > 0, before.audit is None) == (True, False)
    assert (after.held_by_churn, after.audit, after.settle, after.order) == (0, None, None, 8)
    assert measure(after)["boots"] == 2
