# SPDX-License-Identifier: Apache-2.0
"""What the host does with guest RAM: huge pages, swap, pages merged by KSM; undone afterwards.

Each state is the whole host's and takes root, so that a host without leave for it skips the test.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_vm import PlainVm, advised, part, plain_vm, settled
from test_audit_advice_works import holding

from harness.deadline import Deadline, wait_for
from harness.machine.host_pressure import page_out
from harness.units import GIB, MIB

pytestmark = pytest.mark.vm

LARGE, SMALL = 200 * MIB, 40 * MIB
FREED = "dd if=/dev/zero of=/tmp/big bs=1M count=300 2> /dev/null; rm /tmp/big"
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
KSM = Path("/sys/kernel/mm/ksm")
ZRAM, ZRAM_SETTINGS = Path("/dev/zram0"), Path("/sys/block/zram0")


@contextlib.contextmanager
def written(path: Path, text: str) -> Iterator[None]:
    """Let a file of the host's kernel say something else within the block."""
    try:
        before = path.read_text().strip()
        path.write_text(text)
    except OSError as error:
        pytest.skip(f"{path} may not be set here: {error.strerror}")
    try:
        yield
    finally:
        path.write_text(before)


def test_guest_ram_in_huge_pages_larger_than_what_the_guest_reports(tmp_path: Path) -> None:
    words = (
        *("-object", "memory-backend-memfd,id=ram,size=1G,hugetlb=on,hugetlbsize=2M,share=on"),
        *("-machine", "memory-backend=ram"),
    )
    with written(HUGE_PAGES, str(GIB // (2 * MIB))):
        if int(HUGE_PAGES.read_text()) < GIB // (2 * MIB):
            pytest.skip("the host has not enough memory in one piece for huge pages")
        with plain_vm(tmp_path, name="pool", memory="1G", words=words) as vm:
            with holding(vm, "never", "free blocks 5 2 0"):
                vm.run("echo 5 > /sys/module/page_reporting/parameters/page_reporting_order")
                vm.run("head -c 4194304 /dev/zero > /tmp/big; rm /tmp/big")  # a free starts a pass
                before = settled(vm, SMALL)
                advice = advised(before)["pinned"]
                assert advice["size"] > LARGE / 2
                assert "guest RAM lies in pages of 2MiB" in advice["words"]
                assert abs(part(before, "unexplained")) <= before["total"] / 100
                [command] = [c for c in advice["commands"] if c["where"] == "guest"]
            vm.run(command["line"])
            vm.run(FREED)
            after = settled(vm, SMALL)
            assert "pinned" not in advised(after)
            assert part(after, "reported") < 16 * MIB
            assert after["host"]["ram"]["held"] < before["host"]["ram"]["held"] - LARGE / 2


@contextlib.contextmanager
def swap() -> Iterator[None]:
    """Let the host have swap within the block: its own, or 512 MiB of compressed memory."""
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield
        return
    size = ZRAM_SETTINGS / "disksize"
    if os.geteuid() or not ZRAM.exists() or size.read_text().strip() != "0":
        pytest.skip("the host has no swap, and no idle /dev/zram0 to make some with")
    if shutil.which("mkswap") is None:
        pytest.skip("the host has no swap, and no mkswap")
    try:
        size.write_text(str(512 * MIB))
        for command in ("mkswap", "swapon"):
            subprocess.run([command, str(ZRAM)], check=True, capture_output=True, timeout=30)
        yield
    finally:
        subprocess.run(["swapoff", str(ZRAM)], check=False, capture_output=True, timeout=60)
        (ZRAM_SETTINGS / "reset").write_text("1")


def guest_ram(vm: PlainVm) -> int:
    """Where guest RAM begins in QEMU, as it says itself."""
    told = vm.tell("human-monitor-command", **{"command-line": "gpa2hva 0x100000"})
    return int(str(told).rsplit(maxsplit=1)[-1], 16) - 0x100000


def test_guest_ram_that_the_host_has_swapped_out(tmp_path: Path) -> None:
    with swap(), plain_vm(tmp_path, name="swapped") as vm:
        vm.run("head -c 209715200 /dev/urandom > /tmp/big")
        before = vm.both()
        vm.tell("stop")
        start = guest_ram(vm)
        page_out(vm.pid, [(start, start + 512 * MIB)])
        stopped = vm.look()
        vm.tell("cont")
        assert stopped["host"]["ram"]["swapped"] > 100 * MIB
        after = vm.both()
        assert after["host"]["ram"]["swapped"] > 100 * MIB
        for audit in (stopped, after):
            assert abs(part(audit, "unexplained")) <= audit["total"] / 100
        # What is swapped is the VM's cost all the same.
        assert part(after, "shmem") > 190 * MIB
        assert abs(part(after, "shmem") - part(before, "shmem")) < 8 * MIB
        text = vm.audit("swapped")
        assert "swapped out" in text, text


def test_guest_ram_that_ksm_has_merged(tmp_path: Path) -> None:
    words = ("-machine", "mem-merge=on")
    with contextlib.ExitStack() as settings:
        for name, value in (("sleep_millisecs", "20"), ("pages_to_scan", "20000"), ("run", "1")):
            settings.enter_context(written(KSM / name, value))
        with plain_vm(tmp_path, name="merged", words=words) as vm:
            vm.run("tr '\\0' x < /dev/zero | head -c 209715200 > /tmp/big")
            merged = Path(f"/proc/{vm.pid}/ksm_merging_pages")
            much = LARGE // 2 // 4096
            wait_for(
                lambda: int(merged.read_text()) > much or None,
                Deadline(120.0, "KSM to merge pages"),
                interval=0.5,
            )
            audit = vm.both()
    assert audit["host"]["ram"]["merged"] > LARGE / 2
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert part(audit, "shmem") > 190 * MIB, "RSS counts it, and so does an audit"
