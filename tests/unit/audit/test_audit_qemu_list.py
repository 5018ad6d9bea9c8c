# SPDX-License-Identifier: Apache-2.0
"""Finding QEMU processes in a /proc made for the test."""

import os
from pathlib import Path

import pytest

from harness.audit.qemu_list import find_name, find_pid, list_qemus, qemu_of, socket_paths
from harness.errors import ObserveError
from harness.units import MIB


def process(proc: Path, pid: int, words: str, program: str = "/usr/bin/qemu-system-x86_64") -> Path:
    entry = proc / f"{pid}"
    entry.mkdir()
    (entry / "cmdline").write_bytes(words.replace(" ", "\0").encode() + b"\0")
    (entry / "comm").write_text("something\n")
    (entry / "status").write_text(f"Uid:\t{os.getuid()}\t{os.getuid()}\nVmRSS:\t  2048 kB\n")
    (entry / "exe").symlink_to(program)
    (entry / "smaps").write_text("")
    (entry / "pagemap").write_text("")
    return entry


def test_every_qemu_is_listed_and_nothing_else(tmp_path: Path) -> None:
    process(tmp_path, 30, "qemu -name b -m 1G")
    process(tmp_path, 4, "qemu -name a")
    process(tmp_path, 5, "sh", program="/bin/sh")
    (tmp_path / "self").mkdir()
    assert [(p.pid, p.words.name, p.rss, p.readable) for p in list_qemus(tmp_path)] == [
        (4, "a", 2 * MIB, True),
        (30, "b", 2 * MIB, True),
    ]


def test_a_pid_that_is_no_qemu_is_refused(tmp_path: Path) -> None:
    process(tmp_path, 5, "sh", program="/bin/sh")
    with pytest.raises(ObserveError, match="process 5 \\(something\\) is no QEMU"):
        find_pid(5, tmp_path)
    with pytest.raises(ObserveError, match="there is no process 6"):
        find_pid(6, tmp_path)


def test_memory_that_may_not_be_read_names_the_user_and_the_capability(tmp_path: Path) -> None:
    entry = process(tmp_path, 4, "qemu")
    (entry / "pagemap").unlink()  # root may read whatever is there
    (entry / "status").write_text("Uid:\t65534\t65534\n")
    with pytest.raises(ObserveError, match="may not be read") as refused:
        find_pid(4, tmp_path)
    assert "CAP_SYS_PTRACE" in refused.value.hint
    assert "sudo -u" in refused.value.hint


def test_two_vms_of_one_name_are_told_apart_by_pid(tmp_path: Path) -> None:
    process(tmp_path, 4, "qemu -name twin")
    process(tmp_path, 5, "qemu -name twin")
    with pytest.raises(ObserveError, match="2 QEMUs are called 'twin': the processes 4, 5"):
        find_name("twin", list_qemus(tmp_path))
    with pytest.raises(ObserveError, match="no QEMU of this host is called 'other'"):
        find_name("other", list_qemus(tmp_path))


def test_a_relative_socket_is_looked_for_where_qemu_was_started(tmp_path: Path) -> None:
    entry = process(tmp_path, 4, "qemu -qmp unix:qmp.sock,server=on -qmp unix:/no/where,server=on")
    (entry / "root" / "no").mkdir(parents=True)
    (entry / "root" / "no" / "where").touch()
    [found] = list_qemus(tmp_path)
    assert socket_paths(found, tmp_path) == [
        tmp_path / "4/cwd/qmp.sock",
        tmp_path / "4/root/no/where",  # a container's own path
    ]


def test_a_socket_that_cannot_be_looked_at_is_no_crash(tmp_path: Path) -> None:
    """A name too long, as root; a directory that may not be passed, as anybody else."""
    path = Path("/tmp") / ("x" * 300)
    process(tmp_path, 4, f"qemu -qmp unix:{path},server=on")
    [found] = list_qemus(tmp_path)
    assert socket_paths(found, tmp_path) == [path]


def test_a_socket_that_is_gone_is_named_as_on_the_command_line(tmp_path: Path) -> None:
    process(tmp_path, 4, "qemu -qmp unix:/no/where,server=on")
    [found] = list_qemus(tmp_path)
    assert socket_paths(found, tmp_path) == [Path("/no/where")]


def test_a_thread_of_a_qemu_stands_for_its_process(tmp_path: Path) -> None:
    process(tmp_path, 4, "qemu -name a")
    thread = process(tmp_path, 7, "qemu -name a")
    (thread / "status").write_text("Tgid:\t4\nUid:\t0\t0\n")
    assert find_pid(7, tmp_path).pid == 4
    assert qemu_of(8, tmp_path) is None


def test_a_qemu_that_has_changed_its_user_needs_more_than_that_user(tmp_path: Path) -> None:
    """With -runas, the kernel shows its memory map to root alone (proc(5), PR_SET_DUMPABLE)."""
    entry = process(tmp_path, 4, "qemu")
    (entry / "pagemap").unlink()
    uid = os.geteuid()
    (entry / "status").write_text(f"Uid:\t{uid}\t{uid}\nVmRSS:\t  2048 kB\n")
    with pytest.raises(ObserveError, match="has changed its user itself") as refused:
        find_pid(4, tmp_path)
    assert "sudo -u" not in refused.value.hint
    (entry / "status").write_text("Uid:\t65534\t65534\nVmRSS:\t  2048 kB\n")
    with pytest.raises(ObserveError, match="runs as nobody"):
        find_pid(4, tmp_path)
