# SPDX-License-Identifier: Apache-2.0
"""The command line of a guest: each backend, NUMA, either accelerator, word for word."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from harness.machine.command import (
    KERNEL_WORDS,
    LaunchFiles,
    balloon_properties,
    command_by_hand,
    qemu_command,
)
from harness.machine.spec import Backend, BalloonSpec, GuestSpec, NumaNode
from harness.units import GIB, MIB

FILES = LaunchFiles(
    qemu=Path("/usr/bin/qemu-system-x86_64"),
    kernel=Path("/images/vmlinuz"),
    initramfs=Path("/run/fpr-1/initramfs"),
    runtime=Path("/run/fpr-1"),
    disk=Path("/run/fpr-1/disk"),
    console_log=Path("/results/console.log"),
    discard_log=Path("/results/discards.log"),
    discard_event="ram_block_discard_range",
)
PLAIN = GuestSpec(memory=GIB, vcpus=2)


def words(spec: GuestSpec, accel: str = "tcg") -> list[str]:
    return qemu_command(
        spec,
        FILES,
        accel=accel,  # type: ignore[arg-type]
        cpu="max",
        name="fpr-1",
    )


def after(option: str, argv: list[str]) -> list[str]:
    """The values of every occurrence of an option."""
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_virtual_clock_counts_instructions_and_the_tsc_counts_nanoseconds() -> None:
    argv = words(replace(PLAIN, clock="virtual", machine="microvm"))
    assert after("-accel", argv) == ["tcg,thread=single,tb-size=256"]
    assert after("-icount", argv) == ["shift=2,sleep=off"]
    assert "tsc_early_khz=1000000" in after("-append", argv)[0].split()
    assert "-icount" not in words(PLAIN)


@pytest.mark.parametrize("rr", ["record", "replay"])
def test_recorded_guest_and_its_replay_are_the_same_machine(
    rr: Literal["record", "replay"],
) -> None:
    """All that differs is whether QEMU writes its log or reads it. An idle guest waits, since the
    log would grow by a megabyte a second otherwise."""
    recorded = replace(PLAIN, clock="virtual", rr=rr)
    argv = words(recorded)
    assert after("-icount", argv) == [f"shift=2,rr={rr},rrfile=/run/fpr-1/record.bin"]
    assert "filter-replay,id=replay0,netdev=net0" in after("-object", argv)
    assert "nokaslr" in after("-append", argv)[0].split()
    other = words(replace(recorded, rr="replay" if rr == "record" else "record"))
    assert len([word for word in argv if word not in other]) == 1
    by_hand = command_by_hand(recorded, FILES, accel="tcg", cpu="max")
    assert after("-icount", by_hand) == ["shift=2,sleep=off"]


def test_plain_guest_word_for_word() -> None:
    assert " ".join(words(PLAIN)) == (
        "/usr/bin/qemu-system-x86_64 -name guest=fpr-1"
        " -nodefaults -no-user-config -display none"
        " -accel tcg,thread=multi,tb-size=256 -cpu max"
        " -m 1024M -object memory-backend-ram,id=m0,size=1073741824"
        " -machine pc,memory-backend=m0 -smp 2"
        " -kernel /images/vmlinuz -initrd /run/fpr-1/initramfs"
        f" -append {' '.join(KERNEL_WORDS)}"
        " -device virtio-balloon-pci,id=balloon0,free-page-reporting=on"
        " -netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
        " -device virtio-net-pci,netdev=net0,romfile="
        " -serial file:/results/console.log"
        " -qmp unix:/run/fpr-1/qmp.sock"
        " -qmp unix:/run/fpr-1/debug.sock,server=on,wait=off"
        " -S -no-reboot -msg timestamp=on"
        " -trace ram_block_discard_range -D /results/discards.log"
    )


@pytest.mark.parametrize(
    ("backend", "object_words"),
    [
        ("anonymous", "memory-backend-ram,id=m0,size=1073741824"),
        ("memfd-shared", "memory-backend-memfd,id=m0,size=1073741824,share=on"),
        ("memfd-private", "memory-backend-memfd,id=m0,size=1073741824,share=off"),
        (
            "file-shared",
            "memory-backend-file,id=m0,size=1073741824,mem-path=/run/fpr-1/m0.ram,share=on",
        ),
        (
            "file-private",
            "memory-backend-file,id=m0,size=1073741824,mem-path=/run/fpr-1/m0.ram,share=off",
        ),
    ],
)
def test_each_backend(backend: Backend, object_words: str) -> None:
    argv = words(GuestSpec(memory=GIB, vcpus=1, backend=backend))
    assert after("-object", argv) == [object_words]
    assert after("-machine", argv) == ["pc,memory-backend=m0"]


def test_numa_nodes_each_with_a_named_block() -> None:
    spec = GuestSpec(memory=3 * GIB, vcpus=3, numa=(NumaNode(GIB, (0, 2)), NumaNode(2 * GIB, (1,))))
    argv = words(spec)
    assert after("-numa", argv) == [
        "node,nodeid=0,memdev=m0,cpus=0,cpus=2",
        "node,nodeid=1,memdev=m1,cpus=1",
    ]
    assert after("-object", argv) == [
        "memory-backend-ram,id=m0,size=1073741824",
        "memory-backend-ram,id=m1,size=2147483648",
    ]
    assert after("-machine", argv) == ["pc"]


def test_reporting_off_is_said_to_the_device() -> None:
    argv = words(GuestSpec(memory=GIB, vcpus=1, balloon=BalloonSpec(free_page_reporting=False)))
    assert "virtio-balloon-pci,id=balloon0,free-page-reporting=off" in after("-device", argv)


def test_kvm_has_no_translation_buffer() -> None:
    assert after("-accel", words(PLAIN, "kvm")) == ["kvm"]


def test_scenarios_words_come_last_on_the_kernels_command_line() -> None:
    (line,) = after("-append", words(GuestSpec(memory=512 * MIB, vcpus=1, cmdline=" a=1  b ")))
    assert line.endswith(" a=1 b")
    assert "quiet" not in line


def test_a_panic_ends_qemu_at_once() -> None:
    (line,) = after("-append", words(PLAIN))
    assert "panic=-1" in line.split()
    assert "-no-reboot" in words(PLAIN)


def test_by_hand_is_the_same_guest_on_a_terminal_without_network_or_the_vms_files() -> None:
    argv = command_by_hand(PLAIN, FILES, accel="tcg", cpu="max")
    for option in ("-m", "-object", "-machine", "-smp", "-accel", "-cpu", "-kernel"):
        assert after(option, argv) == after(option, words(PLAIN))
    assert after("-serial", argv) == ["mon:stdio"]
    assert after("-netdev", argv) == []
    assert "fpr.console_shell" in after("-append", argv)[0].split()
    assert not any(
        "/results/" in word or ("/run/" in word and "initramfs" not in word) for word in argv
    )


def test_microvm_has_its_devices_on_virtio_mmio() -> None:
    argv = words(GuestSpec(memory=GIB, vcpus=1, machine="microvm"))
    assert after("-machine", argv) == ["microvm,memory-backend=m0"]
    assert after("-device", argv) == [
        "virtio-balloon-device,id=balloon0,free-page-reporting=on",
        "virtio-net-device,netdev=net0",
    ]


def test_a_microvm_is_told_its_clock_rate_where_it_cannot_measure_it() -> None:
    def kernel_words(spec: GuestSpec, accel: Literal["kvm", "tcg"], khz: int) -> str:
        argv = qemu_command(spec, FILES, accel=accel, cpu="max", name="fpr-1", tsc_khz=khz)
        return after("-append", argv)[0]

    microvm = GuestSpec(memory=GIB, vcpus=1, machine="microvm")
    assert "tsc_early_khz=2445430 tsc=reliable" in kernel_words(microvm, "tcg", 2445430)
    for spec, accel, khz in ((microvm, "kvm", 1), (microvm, "tcg", 0), (PLAIN, "tcg", 1)):
        assert "tsc" not in kernel_words(spec, accel, khz)  # type: ignore[arg-type]


def test_the_balloons_features_are_said_to_qemu_and_to_a_plug_alike() -> None:
    features = BalloonSpec(free_page_hint=True, deflate_on_oom=True)
    spec = GuestSpec(memory=GIB, vcpus=1, balloon=features)
    argv = words(spec)
    assert after("-object", argv)[-1] == "iothread,id=hints"
    assert after("-device", argv)[0] == (
        "virtio-balloon-pci,id=balloon0,free-page-reporting=on,deflate-on-oom=on,"
        "free-page-hint=on,iothread=hints"
    )
    assert balloon_properties(spec, reporting=False) == {
        "driver": "virtio-balloon-pci",
        "id": "balloon0",
        "free-page-reporting": False,
        "deflate-on-oom": True,
        "free-page-hint": True,
        "iothread": "hints",
    }


def test_room_for_plugged_memory_and_a_disk() -> None:
    argv = words(GuestSpec(memory=GIB, vcpus=1, hotplug=512 * MIB, disk=MIB))
    assert after("-m", argv) == ["1024M,slots=4,maxmem=1536M"]
    assert after("-blockdev", argv) == [
        "driver=raw,node-name=disk0,file.driver=file,file.filename=/run/fpr-1/disk,file.locking=off"
    ]
    assert "virtio-blk-pci,drive=disk0" in after("-device", argv)


def test_a_destination_waits_for_its_guest() -> None:
    argv = qemu_command(PLAIN, FILES, accel="tcg", cpu="max", name="fpr-2", incoming=True)
    assert after("-incoming", argv) == ["defer"]
    assert "-incoming" not in words(PLAIN)


def test_memory_is_locked_touched_and_more_is_said_only_where_it_is_asked_for() -> None:
    plain = words(PLAIN)
    assert "mem-lock=on" not in plain
    assert not any("prealloc" in word for word in plain)
    asked = replace(PLAIN, mem_lock=True, prealloc=True, qemu_args=("-device", "virtio-rng-pci"))
    argv = words(asked)
    assert after("-overcommit", argv) == ["mem-lock=on"]
    assert all("prealloc=on" in word for word in after("-object", argv) if "memory-backend" in word)
    assert "virtio-rng-pci" in after("-device", argv)


def test_qemu_filters_its_own_system_calls_as_far_as_it_can() -> None:
    files = replace(FILES, denied=("obsolete", "spawn"))
    for argv in (
        qemu_command(PLAIN, files, accel="tcg", cpu="max", name="fpr-1"),
        command_by_hand(PLAIN, files, accel="tcg", cpu="max"),
    ):
        assert after("-sandbox", argv) == ["on,obsolete=deny,spawn=deny"]
    assert "-sandbox" not in words(PLAIN)
