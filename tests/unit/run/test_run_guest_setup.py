# SPDX-License-Identifier: Apache-2.0
"""Modules that a scenario asks its guest for."""

from types import SimpleNamespace
from typing import cast

import pytest

from harness.errors import GuestError, HarnessError, PreconditionError
from harness.machine.vm import VirtualMachine
from harness.record.facts import Verdict
from harness.run.guest_setup import load_modules
from harness.run.runner import verdict_of


def guest(status: int, stderr: str) -> VirtualMachine:
    answer = SimpleNamespace(status=status, stderr=stderr.encode())
    shell = SimpleNamespace(run=lambda _command, **_: answer)
    return cast(VirtualMachine, SimpleNamespace(shell=shell, kernel_release="6.1.0-test"))


@pytest.mark.parametrize(
    ("stderr", "kind", "verdict", "words"),
    [
        (
            "modprobe: module zram not found in modules.dep",
            PreconditionError,
            Verdict.SKIP,
            "the guest has no module zram for its kernel",
        ),
        (
            "modprobe: can't load module zram (drivers/block/zram.ko): Operation not permitted",
            GuestError,
            Verdict.ERROR,
            r"did not take the module zram: .*Operation not permitted",
        ),
    ],
    ids=["absent", "refused"],
)
def test_a_module_that_is_refused_is_not_called_absent(
    stderr: str, kind: type[HarnessError], verdict: Verdict, words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        load_modules(guest(1, stderr), ["zram"])
    assert verdict_of(raised.value) is verdict


def test_modules_that_load_are_all_there_is_to_it() -> None:
    load_modules(guest(0, ""), ["zram", "virtio_blk"])
