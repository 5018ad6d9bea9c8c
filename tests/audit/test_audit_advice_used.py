# SPDX-License-Identifier: Apache-2.0
"""Advice about what the guest uses or keeps for itself: brought about, followed, audited again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_vm import REPORTING, SILENT, PlainVm, advised, part, plain_vm, settled

from harness.image.cache import cache_directory
from harness.units import MIB

pytestmark = pytest.mark.vm

LARGE, SMALL = 200 * MIB, 40 * MIB
FREED = "dd if=/dev/zero of=/tmp/big bs=1M count=300 2> /dev/null; rm /tmp/big"
"""Fills 300 MiB and frees them again."""
LITTLE = "dd if=/dev/zero of=/tmp/big bs=1M count=8 2> /dev/null; rm /tmp/big"
"""Does so with 8 MiB, most of which stay on the list of the processor."""


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    with plain_vm(tmp_path_factory.mktemp("vm"), memory="1G") as running:
        yield running


def test_files_on_a_tmpfs(vm: PlainVm) -> None:
    vm.run("dd if=/dev/zero of=/tmp/big bs=1M count=300 2> /dev/null")
    before = vm.both()
    assert advised(before)["shmem"]["size"] > LARGE
    vm.run("rm /tmp/big")
    after = settled(vm, SMALL)
    assert part(after, "shmem") < part(before, "shmem") - LARGE
    assert after["host"]["ram"]["held"] < before["host"]["ram"]["held"] - LARGE


def test_memory_that_the_guest_has_put_offline(tmp_path: Path) -> None:
    """What it had used of that, the host still has."""
    put = "for b in $(ls -d memory[0-9]*); do echo offline > $b/state 2> /dev/null && exit; done"
    with plain_vm(tmp_path, name="offline", device=SILENT) as silent:
        silent.run(FREED)
        before = silent.both()
        silent.run(f"cd /sys/devices/system/memory; {put}; exit 1")
        after = silent.both()
    assert part(before, "ballooned") == 0
    assert part(after, "ballooned") > LARGE / 10
    assert part(after, "hidden") == part(before, "hidden")
    assert part(after, "kernel") < part(before, "kernel") + SMALL


def test_slab_caches_of_files_that_the_kernel_remembers(vm: PlainVm) -> None:
    vm.run("find /sys /proc > /dev/null 2>&1; :")
    before = vm.both()
    [command] = advised(before)["slab"]["commands"]
    vm.run(command["line"])
    after = vm.both()
    assert part(after, "slab") < part(before, "slab") - 4 * MIB


def test_pages_on_the_lists_of_the_processors(vm: PlainVm) -> None:
    vm.run(f"for cpu in 0 1; do for turn in 1 2; do taskset -c $cpu sh -c '{LITTLE}'; done; done")
    before = vm.both()
    advice = advised(before)["per-cpu"]
    assert advice["size"] > 12 * MIB
    [command] = advice["commands"]
    vm.run("echo 1 > /proc/sys/vm/compact_memory")
    assert part(vm.both(), "per_cpu") > 12 * MIB, "compaction would be wrong advice"
    vm.run(command["line"])
    vm.run(f"for cpu in 0 1; do taskset -c $cpu sh -c '{LITTLE}'; done")
    after = vm.both()
    assert "per-cpu" not in advised(after)
    assert part(after, "per_cpu") < part(before, "per_cpu") / 2


def small_kernel() -> Path:
    """The kernel that `make test-kernels` builds, which has CONFIG_PAGE_POISONING."""
    found = sorted(cache_directory().glob("kernels/*/built/clean-*/bzImage"))
    if not found:
        pytest.skip("no kernel with CONFIG_PAGE_POISONING: make test-kernels builds one")
    return found[-1]


def test_freed_pages_that_are_filled_with_a_pattern(tmp_path: Path) -> None:
    kernel = small_kernel()
    with plain_vm(
        tmp_path, name="poison", memory="1G", append="page_poison=1", kernel=kernel
    ) as vm:
        vm.run(FREED)
        before = settled(vm, SMALL)
    advice = advised(before)["page-poison"]
    assert advice["size"] > LARGE
    assert part(before, "reported") == advice["size"]
    assert "page_poison=1" in advice["commands"][0]["line"]
    with plain_vm(tmp_path, name="poison", memory="1G", kernel=kernel) as vm:
        vm.run(FREED)
        after = settled(vm, SMALL)
    assert "page-poison" not in advised(after)
    assert after["host"]["ram"]["held"] < before["host"]["ram"]["held"] - LARGE


def test_freed_pages_that_are_filled_and_a_device_that_is_not_told(tmp_path: Path) -> None:
    """The driver then refuses to report (virtballoon_validate())."""
    append, device = "init_on_free=1", f"{REPORTING},page-poison=off"
    with plain_vm(tmp_path, name="filled", memory="1G", device=device, append=append) as vm:
        vm.run(FREED)
        before = vm.both()
    advice = advised(before)["not-negotiated"]
    assert advice["size"] > LARGE
    assert "page-poison=off" in advice["words"]
    qemu, guest = advice["commands"]
    assert "init_on_free=1" in guest["line"]
    device = qemu["line"].removeprefix("-device ")
    with plain_vm(tmp_path, name="filled", memory="1G", device=device, append=append) as vm:
        vm.run(FREED)
        after = settled(vm, SMALL)
    assert "not-negotiated" not in advised(after)
    assert "page-poison" not in advised(after), "what it expects are zeros"
    assert after["host"]["ram"]["held"] < before["host"]["ram"]["held"] - LARGE


def test_a_buffer_of_translated_code_that_is_smaller(tmp_path: Path) -> None:
    work = "find / > /dev/null 2>&1; ls -lR /sys > /dev/null 2>&1; :"
    with plain_vm(tmp_path, name="large", memory="512M") as vm:
        vm.run(work)
        before = vm.look()
    [command] = advised(before)["translation-buffer"]["commands"]
    words = tuple(command["line"].split())
    with plain_vm(tmp_path, name="small", memory="512M", words=words) as vm:
        vm.run(work)
        after = vm.look()
    size = int(words[1].rpartition("=")[2]) * MIB
    assert part(after, "translated") <= size < part(before, "translated")
