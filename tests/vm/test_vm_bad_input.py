# SPDX-License-Identifier: Apache-2.0
"""Bad input and a poor host: one message with the cause and the next step, and the right status.

Each test runs the real command; where a guest would be needed, none comes up.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu
from leftovers import vm_directories
from running import Running, qemus_of
from small_disk import fill, small_disk

from harness.image.build import BootFiles, ensure_image
from harness.image.definition import load_definitions

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def image() -> BootFiles:
    return ensure_image(load_definitions()["bookworm"], progress=print)


def refused(tmp_path: Path, *arguments: str, status: int = 69) -> str:
    """What `run reclaim-basic` prints when it cannot: no traceback, nothing left, told at once."""
    run = Running(tmp_path / "results", ["run", "reclaim-basic", "--accel", "tcg", *arguments])
    code, output = run.end()
    assert "Traceback" not in output
    assert code == status, output
    assert qemus_of(run.results) == []
    assert vm_directories(run.process.pid) == []
    if status == 69:
        assert run.summary()["verdict"] == "MISS"
    return output


def test_missing_kernel(tmp_path: Path) -> None:
    words = refused(tmp_path, "--kernel", "/nonexistent/bzImage", status=2)
    assert "/nonexistent/bzImage" in words
    assert "name a bzImage" in words


def test_file_that_is_no_kernel(tmp_path: Path) -> None:
    words = refused(tmp_path, "--kernel", "/bin/true")
    assert "/bin/true" in words
    assert "bzImage" in words


def test_truncated_kernel(tmp_path: Path, image: BootFiles) -> None:
    short = tmp_path / "bzImage"
    short.write_bytes(image.kernel.read_bytes()[: 1 << 20])
    words = refused(tmp_path, "--kernel", str(short))
    assert str(short) in words
    assert "truncated" in words or "short" in words


def test_modules_that_are_none(tmp_path: Path, image: BootFiles) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "virtio_net.ko").write_bytes(b"\x7fELF, but no further")
    words = refused(tmp_path, "--kernel", str(image.kernel), "--modules", str(modules))
    assert str(modules) in words


def test_qemu_that_exits_at_once(tmp_path: Path) -> None:
    """It says what it is and does nothing else."""
    words = refused(tmp_path, "--qemu", str(script(tmp_path, "echo no such machine >&2; exit 3")))
    assert "QEMU exited (3): no such machine" in words


@pytest.mark.parametrize(
    ("qemu", "message"),
    [
        ("/nonexistent/qemu-system-x86_64", ": no such file"),
        ("/tmp", ": a directory, not a program"),
        ("/bin/ls", " does not answer as QEMU does"),
    ],
)
def test_what_is_no_qemu_is_told_before_anything_begins(
    tmp_path: Path, qemu: str, message: str
) -> None:
    run = Running(tmp_path / "results", ["run", "--qemu", qemu])
    code, output = run.end()
    assert code == 69
    assert output.count(f"{qemu}{message}") == 1
    assert not run.results.exists()


def test_no_memory_for_the_guest(tmp_path: Path) -> None:
    words = refused(tmp_path, "--set", "guest.memory=900GiB", "--set", "host.backend=memfd-shared")
    assert "memory (900GiB) is more than the host has available" in words


def script(directory: Path, words: str) -> Path:
    """A QEMU that says what it is and then, given a guest, does as told."""
    path = directory / "qemu-system-x86_64"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *none,*) exec qemu-system-x86_64 "$@";; esac\n{words}\n'
    )
    path.chmod(0o755)
    return path


def test_scenario_with_mistakes_names_them_all(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: wrong\nguest: {memory: 1Gb, memory: 2}\nsteps: [{settel: {}}]\n")
    run = Running(tmp_path / "results", ["run", str(path)])
    code, output = run.end()
    assert code == 2
    assert f"{path}:2: " in output
    assert f"{path}:3: " in output
    assert "did you mean" in output
    assert not run.results.exists()


def test_disk_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1M") as disk:
        fill(disk)
        run = Running(disk / "results", ["run", "reclaim-basic", "--accel", "tcg"])
        code, output = run.end()
        assert code == 69
        assert "Traceback" not in output
        assert "No space left on device" in output
        assert "--results" in output
        assert qemus_of(run.results) == []


def test_disk_that_fills_in_the_middle_keeps_what_was_measured(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64M") as disk:
        run = Running(disk / "results", ["run", "reclaim-basic", "--accel", "tcg"])
        run.wait_for_phase("churn")
        fill(disk)
        code, output = run.end()
        assert code == 69
        assert "Traceback" not in output
        assert "No space left on device" in output
        kinds = [event["kind"] for event in run.events()]
        assert kinds[-1] == "judged"
        assert run.events()[-1]["verdict"] == "MISS"
        assert "audited" in kinds
        assert qemus_of(run.results) == []
        assert vm_directories(run.process.pid) == []


def test_pytest_gives_the_same_status_and_table(tmp_path: Path) -> None:
    """As `make test-vm` runs it: a MISS is 69 there too, and Ctrl-C ends it cleanly."""
    root = Path(__file__).parents[2]
    words = ["pytest", "scenarios", "-k", "reclaim-basic", "--accel", "tcg"]
    words += ["--qemu", str(make_dead_qemu(tmp_path))]
    ended = subprocess.run(
        [sys.executable, "-m", *words, "--results", str(tmp_path / "results")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )
    assert ended.returncode == 69, ended.stdout
    assert "1 MISS" in ended.stdout
    assert "Cannot allocate memory" in ended.stdout


def test_pytest_stopped_by_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    words = ["scenarios", "-k", "reclaim-basic", "--accel", "tcg"]
    root = Path(__file__).parents[2]
    run = Running(tmp_path / "results", words, module="pytest", cwd=root)
    run.wait_for_phase("settle")
    run.signal(signal.SIGINT)
    code, output = run.end()
    assert code in (2, 69), output
    assert run.summary()["verdict"] == "MISS"
    assert "1 MISS" in output
    assert qemus_of(run.results) == []
    assert vm_directories(run.process.pid) == []
