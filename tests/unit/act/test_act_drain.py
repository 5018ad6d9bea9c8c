# SPDX-License-Identifier: Apache-2.0
"""`drain`: the per-CPU lists give up their pages."""

import pytest
from fake_guest import FakeGuest

from harness.act.verbs.drain import NO_BLOCKS, NOT_BACK, SECONDS, Drain
from harness.errors import DeadlineError, GuestError, PreconditionError


def test_it_takes_a_block_offline_and_back(guest: FakeGuest) -> None:
    Drain().perform(guest)
    (command,) = guest.vm.commands
    assert command.index("echo offline >$state") < command.index("echo online >$state")
    assert guest.vm.timeouts == [SECONDS]
    assert guest.phase_names == ["drain"]


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (
            NO_BLOCKS,
            PreconditionError,
            r"\(6.1.0-test\) cannot take memory blocks offline.*MEMORY_HOTREMOVE",
        ),
        (NOT_BACK, GuestError, r"draining the per-CPU lists failed \(4\): its error"),
    ],
)
def test_what_the_guest_cannot_do_is_told(
    guest: FakeGuest, status: int, error: type[Exception], words: str
) -> None:
    guest.vm.says["offline"] = status
    with pytest.raises(error, match=words):
        Drain().perform(guest)


def test_a_guest_that_does_not_answer_is_a_deadline(guest: FakeGuest) -> None:
    guest.vm.says["offline"] = DeadlineError("no answer")
    with pytest.raises(DeadlineError):
        Drain().perform(guest)
