# SPDX-License-Identifier: Apache-2.0
"""Advice about QEMU and the host that takes a restart, or that a broken host brings about."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_vm import SILENT, PlainVm, advised, part, plain_vm, settled
from test_audit_advice_works import FREED, LARGE, SMALL, held, holding
from test_audit_host_states import guest_ram, written

from harness.deadline import Deadline, wait_for
from harness.machine.host_pressure import page_out
from harness.machine.interposer import build_interposer
from harness.units import MIB

pytestmark = pytest.mark.vm

KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")


def device_of(line: str) -> str:
    """The device of a command for QEMU."""
    assert line.startswith("-device "), line
    return line.removeprefix("-device ")


def test_a_balloon_that_does_not_offer_reporting(tmp_path: Path) -> None:
    with plain_vm(tmp_path, name="silent", memory="1G", device=SILENT) as vm:
        vm.run(FREED)
        before = vm.both()
        alone = vm.look()
    advice = advised(before)["not-offered"]
    assert advice["size"] > LARGE
    assert advised(alone)["not-offered"]["size"] is None, "the host alone cannot know"
    [device] = [device_of(c["line"]) for c in advice["commands"] if c["where"] == "qemu"]
    with plain_vm(tmp_path, name="silent", memory="1G", device=device) as vm:
        vm.run(FREED)
        after = settled(vm, SMALL)
    assert "not-offered" not in advised(after)
    assert held(after) < held(before) - LARGE


def test_locked_memory(tmp_path: Path) -> None:
    words = ("-overcommit", "mem-lock=on")
    with plain_vm(tmp_path, name="locked", memory="1G", words=words) as vm:
        vm.run(FREED)
        before = settled(vm, SMALL)
    advice = advised(before)["pinned"]
    assert advice["size"] > LARGE
    assert "mlock" in advice["words"]
    assert advice["commands"][0]["line"] == f"leave out {' '.join(words)}"
    with plain_vm(tmp_path, name="locked", memory="1G") as vm:
        vm.run(FREED)
        after = settled(vm, SMALL)
    assert "pinned" not in advised(after)
    assert held(after) < held(before) - LARGE


def test_page_cache_and_a_balloon(tmp_path: Path) -> None:
    """For good: the guest cannot cache as much again."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(256 * MIB)
    words = ("-drive", f"file={disk},format=raw,if=virtio")
    read = "cat /dev/vda > /dev/null"
    with plain_vm(tmp_path, name="cache", memory="1G", words=words) as vm:
        vm.run(f"modprobe virtio_blk; (sleep 300 < /dev/vda > /dev/null 2>&1 &); {read}")
        before = vm.both()
        advice = advised(before)["page-cache"]
        assert advice["size"] > LARGE
        [line] = [c["line"] for c in advice["commands"] if c["where"] == "qemu"]
        assert line.startswith("balloon ")
        vm.tell("balloon", value=400 * MIB)
        wait_for(
            lambda: vm.tell("query-balloon")["actual"] == 400 * MIB or None,
            Deadline(60.0, "the balloon to grow"),
            interval=0.5,
        )
        vm.run(read)
        after = settled(vm, SMALL)
    assert held(after) < 420 * MIB
    assert part(after, "page_cache") < part(before, "page_cache")


@contextlib.contextmanager
def discarding(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> Iterator[PlainVm]:
    """A VM whose QEMU's discards are changed."""
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as changed:
            changed.setenv("LD_PRELOAD", str(build_interposer()))
            changed.setenv("FPR_DISCARD", policy)
            vm = stack.enter_context(plain_vm(tmp_path, name=name, memory="1G"))
        yield vm


def test_a_host_that_refuses_to_discard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with discarding(tmp_path, "errno=22", monkeypatch, "refused") as vm:
        vm.run(FREED)
        audit = settled(vm, SMALL)
        assert "Failed to discard" in (tmp_path / "qemu.log").read_text(), "as the advice says"
    advice = advised(audit)["acked-not-discarded"]
    assert advice["size"] > LARGE
    assert "Failed to discard" in advice["commands"][0]["line"]


def test_memory_that_the_host_has_only_marked_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with discarding(tmp_path, "lazily", monkeypatch, "lazy") as vm:
        vm.run(FREED)
        before = settled(vm, SMALL)
        assert advised(before)["lazily-free"]["size"] > LARGE
        start = guest_ram(vm)
        page_out(vm.pid, [(start, start + 1024 * MIB)])
        after = vm.both()
    assert "lazily-free" not in advised(after)
    assert held(after) < held(before) - LARGE


def test_what_khugepaged_fills_in_again(tmp_path: Path) -> None:
    """It makes huge pages of blocks of which the guest has returned parts."""
    with contextlib.ExitStack() as settings:
        for path, text in (
            (KHUGEPAGED / "scan_sleep_millisecs", "20"),
            (KHUGEPAGED / "pages_to_scan", "65536"),
            (KHUGEPAGED / "max_ptes_none", "511"),
        ):
            settings.enter_context(written(path, text))
        with plain_vm(tmp_path, name="collapsed", memory="1G") as vm:
            vm.run("echo 5 > /sys/module/page_reporting/parameters/page_reporting_order")
            with holding(vm, "never", "free blocks 5 2 0"):
                advice = wait_for(
                    lambda: advised(vm.both()).get("collapsed"),
                    Deadline(120.0, "khugepaged of the host"),
                    interval=1.0,
                )
            size, [command] = advice["size"], advice["commands"]
            text, _, file = command["line"].removeprefix("echo ").partition(" > ")
            settings.enter_context(written(Path(file), text))
            with holding(vm, "never", "free blocks 5 2 0"):
                after = settled(vm, SMALL)
                again = vm.both()
    for audit in (after, again):
        assert part(audit, "reported") < size / 4, "what is returned from now on stays away"
