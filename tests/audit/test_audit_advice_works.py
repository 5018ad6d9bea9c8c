# SPDX-License-Identifier: Apache-2.0
"""Each advice on a real VM: bring the state about, follow the advice, audit again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plain_vm import PlainVm, advised, part, plain_vm, settled

from harness.units import MIB

pytestmark = pytest.mark.vm

LARGE = 200 * MIB
"""What a state is about, at least: of 300 MiB that the guest fills."""
SMALL = 40 * MIB

FREED = "dd if=/dev/zero of=/tmp/big bs=1M count=300 2> /dev/null; rm /tmp/big"
"""Fills 300 MiB and frees them again."""
HELD = (
    "mkfifo /tmp/orders; (sleep 600 > /tmp/orders &) > /dev/null 2>&1; "
    "(fpr-guest churn --bytes 314572800 --seed 7 --hugepages {} < /tmp/orders > /tmp/told &) "
    "2> /dev/null; for turn in $(seq 100); do [ -s /tmp/told ] && break; sleep 0.2; done"
)
ENDED = (
    "echo exit > /tmp/orders; while pidof fpr-guest > /dev/null; do sleep 0.1; done; "
    "rm -f /tmp/orders /tmp/told; "
    "echo 9 > /sys/module/page_reporting/parameters/page_reporting_order"
)
DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"


def told(vm: PlainVm, order: str) -> None:
    """Give the process that holds memory an order, and wait until it has carried it out."""
    vm.run(
        f"lines=$(wc -l < /tmp/told); echo '{order}' > /tmp/orders; "
        "for turn in $(seq 100); do [ $(wc -l < /tmp/told) -gt $lines ] && break; sleep 0.2; done"
    )


@contextlib.contextmanager
def holding(vm: PlainVm, hugepages: str, order: str) -> Iterator[None]:
    """Let a process in the guest hold 300 MiB, and do as `order` says."""
    vm.run(HELD.format(hugepages))
    try:
        told(vm, order)
        yield
    finally:
        vm.run(ENDED)


def held(audit: Any) -> int:
    """Bytes that the host holds of guest RAM."""
    size: int = audit["host"]["ram"]["held"]
    return size


def line_of(audit: Any, advice: str, start: str = "") -> str:
    """The line of an advice's command for the guest that begins so."""
    commands = advised(audit)[advice]["commands"]
    found: str = next(
        command["line"]
        for command in commands
        if command["where"] == "guest" and command["line"].startswith(start)
    )
    return found


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    """Without a balloon at first; with a disk of 256 MiB."""
    directory = tmp_path_factory.mktemp("vm")
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(256 * MIB)
    words = ("-drive", f"file={disk},format=raw,if=virtio")
    with plain_vm(directory, memory="1G", device=None, words=words) as running:
        yield running


def test_a_balloon_that_is_not_there(vm: PlainVm) -> None:
    vm.run(FREED)
    before = vm.both()
    assert advised(before)["no-balloon"]["size"] > LARGE
    assert before["guest"]["driver"] is None
    vm.tell(
        "device_add", driver="virtio-balloon-pci", id="balloon0", **{"free-page-reporting": True}
    )
    after = settled(vm, SMALL)
    assert after["guest"]["reporting"] is True
    assert "no-balloon" not in advised(after)
    assert after["total"] < before["total"] - LARGE


def test_offered_and_no_driver(vm: PlainVm) -> None:
    device = vm.run(f"ls {DRIVER} | grep ^virtio").strip()
    vm.run(f"echo {device} > {DRIVER}/unbind; {FREED}")
    before = vm.both()
    advice = advised(before)["not-negotiated"]
    assert advice["size"] > LARGE
    assert "no driver is bound" in advice["words"]
    assert vm.look()["balloon"]["negotiated"] is False, "the host's side alone sees it too"
    vm.run(line_of(before, "not-negotiated", "echo").replace("virtioN", device))
    after = settled(vm, SMALL)
    assert "not-negotiated" not in advised(after)
    assert after["total"] < before["total"] - LARGE


def test_a_zone_below_its_watermark(vm: PlainVm) -> None:
    """ZONE_DMA: 15 MiB, which the guest never reports at order 9."""
    before = settled(vm, SMALL)
    assert part(before, "below_watermark") > 8 * MIB
    vm.run(line_of(before, "below-watermark"))
    vm.run(FREED)
    after = settled(vm, SMALL)
    assert part(after, "below_watermark") < part(before, "below_watermark") / 2
    vm.run("echo 9 > /sys/module/page_reporting/parameters/page_reporting_order")


def test_page_cache(vm: PlainVm) -> None:
    # The cache of a disk goes with its last user.
    vm.run(
        "modprobe virtio_blk; (sleep 300 < /dev/vda > /dev/null 2>&1 &); cat /dev/vda > /dev/null"
    )
    before = vm.both()
    assert advised(before)["page-cache"]["size"] > LARGE
    vm.run(line_of(before, "page-cache"))
    after = settled(vm, SMALL)
    assert part(after, "page_cache") < MIB
    assert after["total"] < before["total"] - LARGE


def test_a_pool_of_huge_pages(vm: PlainVm) -> None:
    vm.run(f"{FREED}; echo 120 > /proc/sys/vm/nr_hugepages")
    before = vm.both()
    assert advised(before)["huge-pool"]["size"] > LARGE / 2
    vm.run(line_of(before, "huge-pool").partition(" (")[0])
    after = settled(vm, SMALL)
    assert part(after, "huge_pool") == 0
    assert after["total"] < before["total"] - LARGE / 2


def test_fragmented_memory_at_a_lower_order(vm: PlainVm) -> None:
    with holding(vm, "never", "free blocks 5 2 0"):
        before = settled(vm, SMALL)
        size = advised(before)["fragmented"]["size"]
        assert size > LARGE / 2
        vm.run(line_of(before, "fragmented", "echo 5 >"))
        vm.run("head -c 4194304 /dev/zero > /tmp/big; rm /tmp/big")  # a free starts a pass
        after = settled(vm, SMALL)
    assert after["guest"]["order"] == 5
    assert part(after, "below_order") < SMALL
    assert held(after) < held(before) - size / 2


def test_fragmented_memory_after_compaction(vm: PlainVm) -> None:
    with holding(vm, "never", "free blocks 5 2 0"):
        before = settled(vm, SMALL)
        size = advised(before)["fragmented"]["size"]
        assert size > LARGE / 2
        vm.run(line_of(before, "fragmented", "echo 1 > /proc/sys/vm/compact_memory"))
        after = settled(vm, SMALL)
    assert held(after) < held(before) - size / 2


def test_parts_of_huge_pages_whose_split_is_deferred(vm: PlainVm) -> None:
    with holding(vm, "always", "free tails"):
        before = vm.both()
        size = advised(before)["deferred-split"]["size"]
        assert size > LARGE / 2
        vm.run(line_of(before, "deferred-split"))
        split = vm.both()
        assert split["guest"]["account"]["deferred_split"] < size / 2
        # The first page of each huge page is still held: what is free is fragmented.
        assert part(split, "below_order") > size / 2


@pytest.mark.parametrize("backend", ["memory-backend-memfd", "prealloc"])
def test_backends_of_guest_ram_add_up(tmp_path: Path, backend: str) -> None:
    """Shared memory, of which QEMU maps less than the file keeps; and RAM that was never free."""
    kind = "memory-backend-memfd,share=on" if backend != "prealloc" else "memory-backend-ram"
    more = ",prealloc=on" if backend == "prealloc" else ""
    words = ("-object", f"{kind},id=ram,size=512M{more}", "-machine", "memory-backend=ram")
    with plain_vm(tmp_path, memory="512M", words=words) as vm:
        audit = settled(vm, SMALL)
        assert abs(part(audit, "unexplained")) <= audit["total"] / 100
        assert audit["host"]["ram"]["backed_by_file"] is (backend != "prealloc")
        assert audit["backends"][0]["prealloc"] is (backend == "prealloc")
        assert audit["host"]["ram"]["held"] < 300 * MIB, "prealloc was reported like all else"
