# SPDX-License-Identifier: Apache-2.0
"""The recording of a guest in its run's directory: whole, or refused with what is wrong."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import RecordError
from harness.machine.recording import (
    INITRAMFS,
    KERNEL,
    LOG,
    MACHINE,
    RECORDING,
    Machine,
    read_recording,
    write_recording,
)
from harness.machine.replaying import empty_qcow2
from harness.machine.spec import BalloonSpec, GuestSpec, NumaNode
from harness.units import MIB

RECORDED = GuestSpec(
    memory=512 * MIB,
    vcpus=2,
    clock="virtual",
    rr="record",
    numa=(NumaNode(256 * MIB, (0,)), NumaNode(256 * MIB, (1,))),
    balloon=BalloonSpec(deflate_on_oom=True),
)


def recorded(run: Path, head: bytes = struct.pack(">I", 0xE0200C)) -> Path:
    for name in ("log", "kernel", "initramfs"):
        (run / name).write_bytes(head + name.encode())
    paths = {"log": run / "log", "kernel": run / "kernel", "initrd": run / "initramfs"}
    write_recording(run, Machine(RECORDED, "11.1.3"), **paths)
    return run


def test_the_machine_is_read_back_to_be_replayed(tmp_path: Path) -> None:
    machine = read_recording(recorded(tmp_path))
    assert machine.spec == replace(RECORDED, rr="replay")
    assert machine.qemu == "11.1.3"


def test_a_run_that_was_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="has no recording of a guest") as caught:
        read_recording(tmp_path)
    assert "run --record" in caught.value.hint


def test_the_log_of_a_qemu_that_was_killed(tmp_path: Path) -> None:
    """QEMU fills in the head of its log when it ends."""
    with pytest.raises(RecordError, match="is not complete: QEMU writes its head when it ends"):
        read_recording(recorded(tmp_path, head=bytes(4)))


@pytest.mark.parametrize("text", ["", "{}", "[", '{"spec": {"memory": "much"}, "qemu": 1}'])
def test_a_description_that_is_none(tmp_path: Path, text: str) -> None:
    recorded(tmp_path)
    (tmp_path / RECORDING / MACHINE).write_text(text)
    with pytest.raises(RecordError, match="describes no machine"):
        read_recording(tmp_path)


@pytest.mark.parametrize("name", [LOG, KERNEL, INITRAMFS, MACHINE])
def test_a_part_that_is_missing_or_is_no_file(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path) / RECORDING / name
    path.unlink()
    with pytest.raises(RecordError, match=name):
        read_recording(tmp_path)
    path.mkdir()
    with pytest.raises(RecordError, match="not a regular file"):
        read_recording(tmp_path)


def test_a_console_of_nothing_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is replayed says as much as nothing, to begin with."""
    recorded(tmp_path)
    (tmp_path / "console.log").write_bytes(b"")
    assert main(["replay", str(tmp_path)]) == 69
    assert "console.log is empty" in capsys.readouterr().err


def test_the_disk_for_snapshots_has_four_clusters_each_counted_once() -> None:
    image = empty_qcow2(MIB)
    assert len(image) == 4 << 16
    assert struct.unpack_from(">4sI", image) == (b"QFI\xfb", 2)
    assert struct.unpack_from(">5H", image, 2 << 16) == (1, 1, 1, 1, 0)
