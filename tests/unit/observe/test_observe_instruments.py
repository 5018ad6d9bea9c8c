# SPDX-License-Identifier: Apache-2.0
"""The instruments on one QEMU are opened together, on one layout of its RAM."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from guest_ram import GuestRamProcess

from harness.errors import ObserveError, QmpError
from harness.kernel.pages import HostState
from harness.observe.instruments import Instruments
from harness.observe.ram_layout import RamLayout
from harness.units import PAGE_SIZE

NO_VCPUS = SimpleNamespace(execute=lambda _command: [])
"""A monitor of a QEMU without any."""


def test_they_look_at_one_process_and_its_logs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with GuestRamProcess(64, "small-pages") as child:
        monkeypatch.setattr(RamLayout, "read", lambda _monitor: child.layout)
        child.do("write(range(0, 8))")
        discards, errors = tmp_path / "discards.log", tmp_path / "qemu.log"
        discards.write_text(
            f"ram_block_discard_range m0@{child.hva:#x} + {4 * PAGE_SIZE:#x}: "
            "madvise: 1 fallocate: 0 ret: 0\n"
        )
        errors.write_text("")
        vm: Any = SimpleNamespace(
            pid=child.pid, monitor=NO_VCPUS, discard_log=discards, qemu_log=errors, untraced=""
        )
        instruments = Instruments.open(vm)
        assert instruments.layout == child.layout
        assert instruments.mapping.read().rss == 8 * PAGE_SIZE
        assert (instruments.residency.read() == HostState.RESIDENT).sum() == 8
        totals = instruments.discards.read()
        assert totals is not None
        assert totals.bytes == 4 * PAGE_SIZE
        assert instruments.discards.covered.nonzero()[0].tolist() == [0, 1, 2, 3]


def test_a_qemu_that_traces_no_discards_has_not_discarded_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger is absent: a 0 would say that QEMU had discarded nothing."""
    with GuestRamProcess(64, "small-pages") as child:
        monkeypatch.setattr(RamLayout, "read", lambda _monitor: child.layout)
        log = tmp_path / "discards.log"
        vm: Any = SimpleNamespace(
            pid=child.pid, monitor=NO_VCPUS, discard_log=log, qemu_log=log, untraced="no such event"
        )
        discards = Instruments.open(vm).discards
    assert (discards.read(), discards.untraced) == (None, "no such event")
    assert discards.mark() == 0
    for ask in (
        lambda: discards.covered,
        lambda: discards.covered_since(0),
        discards.follow,
        discards.followed,
    ):
        with pytest.raises(ObserveError, match="cannot see what this QEMU discards: no such"):
            ask()
    discards.unfollow()


def test_a_qemu_that_does_not_tell_its_layout_has_none(tmp_path: Path) -> None:
    def execute(*_asked: Any, **_more: Any) -> Any:
        raise QmpError("the monitor is closed")

    monitor = SimpleNamespace(execute=execute, human=execute)
    log = tmp_path / "discards.log"
    vm: Any = SimpleNamespace(pid=1, monitor=monitor, discard_log=log, qemu_log=log, untraced="")
    with pytest.raises(QmpError):
        Instruments.open(vm)
